"""The ledger's state as numbers, on both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.domain.new_event import NewDelivery
from receiver.ledger import Ledger, stats
from receiver.ledger.deliveries import attempts, lanes
from tests.support.ledger import NOW, claim, new_event, record, result_of, settle


def test_an_empty_ledger_has_gauges(ledger: Ledger) -> None:
    assert ledger.read(stats.read) == stats.Gauges({}, {}, {}, None)


def test_gauges_count_what_is_on_its_way_by_sink_and_state(ledger: Ledger) -> None:
    record(ledger, new_event("r1", "ops"), new_event("r2", "ops"), new_event("r3", "ops", "archive"))
    (one,) = claim(ledger, "ops", limit=1)
    settle(ledger, [one], DeliveryMove.ACCEPT)
    claim(ledger, "ops", "w", limit=1)
    ledger.write(lambda connection: lanes.put(connection, Lane("ops", "ops", breaker="open", until=NOW + 9), NOW))
    found = ledger.read(stats.read)
    assert found.counts == {("ops", "queued"): 1, ("ops", "sending"): 1, ("archive", "queued"): 1}
    assert found.oldest_due == {"ops": NOW, "archive": NOW}
    assert found.lanes == {"ops": lanes.WorstLane("open", paused=False)}
    assert found.newest_event == NOW


def test_the_oldest_due_is_the_one_that_has_waited_longest(ledger: Ledger) -> None:
    for late in (20.0, 0.0, 10.0):
        record(ledger, new_event(f"r{late}", "ops", n=late), now=NOW + late)
    record(ledger, new_event("later", "archive"), now=NOW + 5)
    assert ledger.read(stats.read).oldest_due == {"ops": NOW, "archive": NOW + 5}


def test_of_a_long_backlog_no_more_is_counted_than_needed(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"r{number}", "ops") for number in range(5)), new_event("r5", "archive"))
    assert ledger.read(lambda it: stats.counts(it, most=3)) == {("ops", "queued"): 3, ("archive", "queued"): 1}
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    assert ledger.read(lambda it: stats.counts(it, most=3)) == {("ops", "dead"): 3, ("archive", "queued"): 1}


def test_of_many_lanes_the_worst_is_shown(ledger: Ledger) -> None:
    for lane, breaker in (("a", "open"), ("b", "probing"), ("c", "closed")):
        ledger.write(lambda it, lane=lane, state=breaker: lanes.put(it, Lane(lane, "callback", breaker=state), NOW))  # type: ignore[misc]
    ledger.write(lambda it: lanes.set_paused(it, "ops", True, NOW))
    assert ledger.read(lanes.worst_lanes) == {
        "callback": lanes.WorstLane("open", paused=False),
        "ops": lanes.WorstLane("closed", paused=True),
    }


def test_overdue_waits_and_held_deliveries_count_as_due(ledger: Ledger) -> None:
    # Given one that waits for its retry, one that is held for it, one under a claim, and one that is done
    held = NewDelivery("held", "everything", after=("waiting",))
    record(ledger, new_event("r1", "waiting", held), new_event("r2", "sending"), new_event("r3", "done"))
    settle(ledger, claim(ledger, "waiting"), DeliveryMove.DEFER, due_at=NOW + 50)
    claim(ledger, "sending", "w")  # for 15 s
    settle(ledger, claim(ledger, "done"), DeliveryMove.ACCEPT)

    def due(seconds: float) -> dict[str, float]:
        found = ledger.read(lambda it: stats.oldest_due(it, stats.counts(it), NOW + seconds))
        return {sink: since - NOW for sink, since in found.items()}

    # Then only what is held counts, until the others' times have come and nobody acts
    assert due(0) == {"held": 0.0}
    assert due(16) == {"held": 0.0, "sending": 15.0}
    assert due(51) == {"held": 0.0, "sending": 15.0, "waiting": 50.0}


def test_gauges_read_each_row_once(ledger: Ledger) -> None:
    # Given deliveries to one sink in several states
    record(ledger, *(new_event(f"r{number}", "results") for number in range(3)))
    settle(ledger, claim(ledger, "results", limit=1), DeliveryMove.DIE)
    settle(ledger, claim(ledger, "results", limit=1), DeliveryMove.DEFER, due_at=NOW + 50)
    statements = list[str]()

    def read(connection: sa.Connection) -> stats.Gauges:
        sa.event.listen(connection, "before_cursor_execute", lambda *given: statements.append(given[2]))
        return stats.read(connection)

    # When status or metrics read them, no statement runs twice
    assert len(ledger.read(read).counts) == 3
    assert sorted(statements) == sorted(set(statements))


def test_delivery_given_up_is_not_refused(ledger: Ledger) -> None:
    # Given a delivery that was refused, and two whose attempts or time ran out
    for number, outcome in enumerate(("refused", "unavailable", "error")):
        record(ledger, new_event(f"r{number}", "ops"))
        ended = [result_of(each, DeliveryMove.DIE)._replace(outcome=outcome) for each in claim(ledger, "ops")]
        ledger.write(lambda it, ended=ended: attempts.settle(it, "w", ended, NOW))  # type: ignore[misc]

    assert dict(ledger.read(lambda it: stats.newest(it, NOW - 1)).refused) == {"ops": (1, "no")}


def test_newest_rows_show_refusals_in_a_row_and_troubled_events(ledger: Ledger) -> None:
    # Given a sink that refused two after it had accepted one, one that accepted its last, and a rule that failed
    record(ledger, new_event("r1", "ops", "crm"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.ACCEPT)
    settle(ledger, claim(ledger, "crm"), DeliveryMove.DIE)
    for number in (2, 3):
        odd = new_event(f"r{number}", "ops", "crm")._replace(note=f"route big can't be evaluated: {number}")
        record(ledger, odd, now=NOW + number)
        settle(ledger, claim(ledger, "ops", now=NOW + number), DeliveryMove.DIE, now=NOW + number)
    note = "1 of 2 files are not kept (larger than the cap of 5 bytes (max_artifact_bytes)); see manifest.json"
    receipt = {"id": "a/b", "note": note}
    settle(ledger, claim(ledger, "crm", now=NOW + 4), DeliveryMove.ACCEPT, now=NOW + 4, receipt=receipt)

    # Then they are reported, unless they are older than is asked for
    found = ledger.read(lambda it: stats.newest(it, NOW - 1))
    assert dict(found.refused) == {"ops": (2, "no")}
    assert dict(found.files_left_out) == {"crm": 2}
    assert (found.webhook_at, found.unrouted, found.troubled) == (NOW + 3, 2, 0)
    assert found.unrouted_example[1] == "route big can't be evaluated: 3"
    assert found.died == {"ops", "crm"}
    assert ledger.read(lambda it: stats.newest(it, NOW + 9)) == stats.Newest(NOW + 3)


def test_dead_letter_is_new_for_a_time_whatever_follows(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a dead letter, and more deliveries after it than are looked at one by one
    monkeypatch.setattr(stats, "NEWEST", 50)
    record(ledger, new_event("r0", "ops"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DIE)
    record(ledger, *(new_event(f"r{number}", "crm") for number in range(1, 9)))
    settle(ledger, claim(ledger, "crm"), DeliveryMove.ACCEPT, now=NOW + 1)

    # Then its sink has a new one, until it is older than is asked for
    assert ledger.read(lambda it: stats.newest(it, NOW - 1)).died == {"ops"}
    assert ledger.read(lambda it: stats.newest(it, NOW + 0.5)).died == set()
