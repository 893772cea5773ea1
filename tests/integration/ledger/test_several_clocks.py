"""Several clocks at once: nothing is done twice, and none of them waits for ever for another."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

import pytest

from receiver.clock import Clock
from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.domain.new_event import NewDelivery
from receiver.ledger import Ledger, operations
from receiver.ledger.deliveries import lanes
from receiver.ledger.deliveries.lanes import PROBE_LEASE
from receiver.ledger.selection import Selection
from receiver.ledger.verbs import Operation
from tests.support import queries
from tests.support.ledger import claim, new_event, record, settle, states


def test_three_clocks_neither_double_work_nor_deadlock(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    # Given lapsed claims, waits that are over, held ones whose sinks have ended, and a replay in small steps
    now = time.time()
    long_ago = now - 100
    record(ledger, *(new_event(f"lapsed_{n}", "ops") for n in range(100)), now=long_ago)
    claim(ledger, "ops", limit=100, now=long_ago)
    record(ledger, *(new_event(f"waiting_{n}", "mail") for n in range(100)), now=long_ago)
    settle(
        ledger, claim(ledger, "mail", limit=100, now=long_ago), DeliveryMove.DEFER, now=long_ago, due_at=long_ago + 5
    )
    record(ledger, *(new_event(f"dead_{n}", "results") for n in range(100)), now=long_ago)
    settle(ledger, claim(ledger, "results", limit=100, now=long_ago), DeliveryMove.DIE, now=long_ago)
    held = [new_event(f"held_{n}", NewDelivery("late", "r", after=("results",))) for n in range(100)]
    record(ledger, *held, now=long_ago)
    chosen = Selection(state=("dead",))
    ledger.write(lambda connection: operations.create(connection, "op_1", Operation("replay", chosen, rate=100.0), now))

    # When three clocks look at it at the same time, again and again
    def run() -> None:
        url = ledger.url.render_as_string(hide_password=False)
        clock = Clock(Ledger(url), ["ops", "mail", "results", "late"], retain=None)
        try:
            while ledger.read(operations.count_running):
                clock.tick()
                assert time.time() < now + 30
        finally:
            clock.close()

    with caplog.at_level(logging.WARNING, "runhook.clock"):
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    # Then each was done once, and there was no trouble
    assert [record.message for record in caplog.records if "trouble" in record.message] == []
    assert Counter(states(ledger).values()) == {"queued": 400}
    rows = ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter()))
    assert Counter((row["sink"], row["attempts"]) for row in rows) == {
        ("ops", 1): 100,
        ("mail", 1): 100,
        ("results", 1): 100,
        ("late", 0): 100,
    }
    lapsed = claim(ledger, "ops", limit=100, now=now + 1000)
    assert {each.spent for each in lapsed} == {0}  # the first lapse spends nothing
    operation = ledger.read(lambda connection: operations.get(connection, "op_1"))
    assert operation is not None
    assert (operation.state, operation.done, operation.total) == ("done", 100, 100)


@pytest.mark.parametrize("rows", [1, 3])
def test_probe_of_a_killed_worker_is_repeated_within_30_s(ledger: Ledger, rows: int) -> None:
    # Given an open breaker, and a worker that is killed while it probes
    began = time.time() - 20
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(rows)), now=began)
    ledger.write(lambda connection: lanes.put(connection, Lane("ops", "ops", False, "open", 5, began), began))
    (probe,) = claim(ledger, "ops", owner="killed", now=began)
    assert probe.probe
    assert claim(ledger, "ops", owner="other", now=began + PROBE_LEASE - 1) == []
    # When the clock looks, no more than 30 s later
    clock = Clock(ledger, ["ops"], retain=None)
    clock.tick()
    # Then the claim is taken back, and the next worker probes
    assert set(states(ledger).values()) == {"queued"}
    (again,) = claim(ledger, "ops", owner="other", now=time.time())
    assert again.probe
    assert PROBE_LEASE < 30
    clock.close()
