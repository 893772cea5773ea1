"""How outcomes reach the ledger, and what that takes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from handlers import Receipt, Refused, Unavailable
from receiver.config.destinations import RetryPolicy
from receiver.delivery.send_task import SendTask
from receiver.delivery.settlement import Settlement
from receiver.domain import breaker
from receiver.domain.breaker import Lane
from receiver.ledger import Connection, Ledger
from receiver.ledger.deliveries import lanes
from receiver.telemetry import workers
from receiver.telemetry.workers import WorkerCounter
from tests.support.ledger import beside, claim, every_lane, new_event, record
from tests.support.runners import rows


def keeps_itself() -> dict[str, Any]:
    it: dict[str, Any] = {}
    it["itself"] = it
    return it


class Silent(Unavailable):
    """One that calls no __init__ but its own, and whose words can't be read."""

    def __init__(self) -> None:
        """Say nothing."""

    def __str__(self) -> str:
        raise KeyError("words")


odd: Any = Receipt  # one that the types do not allow
# Answers, with the state and the reason of their delivery, and the text that its receipt has.
ODD_ANSWERS: dict[str, tuple[Any, str, str, str]] = {
    "half a character": (Refused("it says \ud800\0"), "dead", "it says ?", ""),
    "half a character, and away": (Unavailable("it says \ud800\0"), "waiting", "it says ?", ""),
    "half a character in a receipt": (Receipt("\ud800", note="\0"), "delivered", "", "note"),
    "a wait that no database takes": (Unavailable("later", retry_after=10**30), "waiting", "later", ""),
    "a wait that no float is": (Unavailable("later", retry_after=10**400), "waiting", "later", ""),
    "a wait without an end": (Unavailable("later", retry_after=float("inf")), "waiting", "later", ""),
    "a wait that is no number": (Unavailable("later", retry_after=float("nan")), "waiting", "later", ""),
    "a wait that is text": (Unavailable("later", retry_after=odd("soon")), "waiting", "later", ""),
    "a receipt that is bytes": (odd(b"r"), "delivered", "", "r"),
    "a receipt with parts of another kind": (odd("r", keys=5, urls=["x"]), "delivered", "", "TypeError"),
    "a receipt with a name that is none": (odd("r", urls={(1, 2): "x"}), "delivered", "", "TypeError"),
    "a receipt that holds itself": (odd("r", urls=keeps_itself()), "delivered", "", "ValueError"),
    "an error of another make": (Silent(), "waiting", "KeyError in the words of Silent", ""),
    "no receipt": (None, "waiting", "NoneType in the sink's code", ""),
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_odd_answer_does_not_stop_its_neighbours(ledger: Ledger, redis_url: str, name: str) -> None:
    """Else all that ended with it would be sent again, as often as it is."""
    # Given sends that have ended together, of which one has an odd answer
    answer, state, reason, receipt = ODD_ANSWERS[name]
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(3)))
    claimed = claim(ledger, "ops")
    answers = [answer if each.run_id == "tsk_1" else Receipt(each.run_id) for each in claimed]
    task = SendTask(claimed, answers=answers)
    connection = redis.Redis.from_url(redis_url)
    settlement = Settlement("ops", RetryPolicy(), "w", WorkerCounter(connection))
    # When they are settled
    settlement.settle(ledger, [task])
    # Then each is what its own answer says
    found = {each["run_id"]: each for each in rows(ledger)}
    assert {run_id: each["state"] for run_id, each in found.items()} == {
        "tsk_0": "delivered",
        "tsk_1": state,
        "tsk_2": "delivered",
    }
    assert found["tsk_1"]["reason"] == reason
    assert receipt in str(found["tsk_1"]["receipt"] or "")
    if state == "waiting":
        assert 0 < found["tsk_1"]["due_at"] - found["tsk_1"]["updated_at"] < 2 * 86_400
    connection.close()


def test_each_attempt_of_a_batch_is_counted_by_its_outcome(
    ledger: Ledger, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    record(ledger, *(new_event(f"tsk_{number}", "counted") for number in range(4)))
    claimed = claim(ledger, "counted")
    refused = Refused("never")
    answers: list[Receipt | Exception] = [Receipt("1"), refused, Receipt("2"), refused]
    connection = redis.Redis.from_url(redis_url)
    counter = WorkerCounter(connection)

    with caplog.at_level("INFO", "runhook.deliver"):
        Settlement("counted", RetryPolicy(), "w", counter).settle(
            ledger, [SendTask(claimed, answers=answers, seconds=0.5)]
        )

    counter.flush()
    found = workers.parse(connection.hgetall(workers.KEY))
    assert [found["attempts", "counted", each] for each in ("accepted", "refused")] == [2, 2]
    assert found["seconds", "counted"] == 2.0
    assert "deliver.settled sink=counted accepted=2 refused=2" in caplog.text
    assert [claimed[n].id in caplog.text for n in range(4)] == [False, True, False, True]
    connection.close()


def test_failures_before_a_restart_count_for_the_breaker(ledger: Ledger, redis_url: str) -> None:
    # Given a sink whose last answers to an earlier process were failures, one too few to open its breaker
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(2)))
    shaky = Lane("ops", "ops", failures=breaker.THRESHOLD - 1)
    ledger.write(lambda connection: lanes.put(connection, shaky, time.time()))
    connection = redis.Redis.from_url(redis_url)
    settlement = Settlement("ops", RetryPolicy(), "w", WorkerCounter(connection))
    # When it accepts, and then fails
    for each, answer in zip(claim(ledger, "ops"), (Receipt("1"), Unavailable("down")), strict=True):
        settlement.settle(ledger, [SendTask([each], answers=[answer])])
    # Then that is the first failure in a row
    (lane,) = ledger.read(every_lane)
    assert (lane.breaker, lane.failures) == ("closed", 1)
    connection.close()


def test_failures_of_two_workers_at_once_both_count(postgres_ledger: Ledger) -> None:
    # Given a sink that has failed once, and two workers whose sends to it fail at the same time
    ledger, counter = postgres_ledger, WorkerCounter(redis.Redis())
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(2)))
    ledger.write(lambda connection: lanes.put(connection, Lane("ops", "ops", failures=1), time.time()))

    def settling(owner: str) -> Callable[[Connection], object]:
        (found,) = claim(ledger, "ops", owner, limit=1)
        tasks, now = [SendTask([found], answers=[Unavailable("down")])], time.time()
        return lambda it: Settlement("ops", RetryPolicy(), owner, counter).record(it, tasks, now)

    with beside(ledger, settling("w1"), settling("w2")):
        # Then the breaker has counted both
        (lane,) = ledger.read(every_lane)
        assert lane.failures == 3


def test_counts_added_while_others_are_flushed_are_kept(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    counter, before = WorkerCounter(client), sys.getswitchinterval()
    adder = threading.Thread(target=lambda: [counter.add_attempt("busy", f"o{n % 50}", 0.1) for n in range(100_000)])
    sys.setswitchinterval(1e-6)
    try:
        adder.start()
        while adder.is_alive():
            counter.flush()
        adder.join()
    finally:
        sys.setswitchinterval(before)
    counter.flush()

    counts = workers.parse(client.hgetall(workers.KEY))
    assert sum(count for (name, *_), count in counts.items() if name == "attempts") == 100_000
    client.close()
