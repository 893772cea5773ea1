"""How outcomes reach the ledger, and what that takes."""

from __future__ import annotations

import pytest
import redis

from handlers import Receipt, Unavailable
from receiver.config.destinations import RetryPolicy
from receiver.delivery.send_task import SendTask
from receiver.delivery.settlement import Settlement
from receiver.ledger import Ledger, database_clock
from receiver.ledger.deliveries import claims, lanes
from receiver.telemetry.workers import AttemptCounter
from tests.support.ledger import NOW, new_event, record, states


def test_what_was_accepted_is_settled_in_one_request_and_what_was_not_after_a_look_at_its_lane(
    postgres_ledger: Ledger, sent: list[None], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given deliveries of two claims that were accepted, and one that was not
    record(postgres_ledger, *(new_event(f"tsk_{number}", "results") for number in range(3)))
    batches = [postgres_ledger.write(lambda it, n=n: claims.claim(it, "results", 1, "w", n, NOW, 15)) for n in range(3)]
    answers = [Receipt("1"), Receipt("2"), Unavailable("away")]
    tasks = [SendTask(n, batch, {}, answers=[answers[n]]) for n, batch in enumerate(batches)]
    settlement = Settlement("results", RetryPolicy(), "w", AttemptCounter(redis.Redis.from_url(redis_url), "results"))
    # And a ledger that has been asked for its time, and has a connection for such requests
    with monkeypatch.context() as patch:
        patch.setattr(database_clock, "FRESH_FOR", 0.0)
        postgres_ledger.write(lambda it: it.exec_driver_sql("SELECT 1"))
    postgres_ledger.write_at_once(lambda _: [lanes.SHUT.with_values(b_lanes=["results"])])

    # When they are settled, then only of the last one the lane is looked at, and changed
    took = []
    for part in (tasks[:2], tasks[2:]):
        sent.clear()
        settlement.settle(postgres_ledger, part, {})
        took.append(len(sent))
    assert took[0] == 1 < took[1]
    assert sorted(states(postgres_ledger).values()) == ["delivered", "delivered", "waiting"]
