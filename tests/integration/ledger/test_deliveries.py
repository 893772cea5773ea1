"""The ledger on SQLite and PostgreSQL: what is written once stays once, and a claim has one owner."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa

from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.domain.new_event import NewDelivery
from receiver.domain.parsed_event import ParsedEvent
from receiver.ledger import Ledger, retention
from receiver.ledger.deliveries import claims, lanes, recovery
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.recording import load
from receiver.ledger.schema import deliveries
from tests.servers.postgres import PostgresProcess
from tests.support import queries
from tests.support.backlog import look_of_the_clock
from tests.support.ledger import (
    NOW,
    claim,
    every_lane,
    hand_back,
    new_event,
    record,
    settle,
    states,
    with_tables,
)

# --- Connections


def test_threads_share_the_connections_of_a_new_ledger(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[sa.Engine] = []
    create = sa.create_engine

    def slowly(*args: object, **kwargs: object) -> sa.Engine:
        time.sleep(0.05)  # the others come meanwhile
        made.append(create(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(sa, "create_engine", slowly)
    ledger, go = Ledger(ledger_url), threading.Barrier(6)

    def use() -> None:
        go.wait(120)
        ledger.read(lambda connection: connection.execute(sa.select(1)).scalar())

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    ledger.close()

    assert len(made) == 1
    assert made[0].pool.checkedin() == 0  # type: ignore[attr-defined]


# --- Events


def test_an_event_is_recorded_once_however_often_it_comes(ledger: Ledger) -> None:
    item = new_event("tsk_1", "results", "archive")

    assert record(ledger, item) == {item.event.id}
    assert record(ledger, item) == set()
    assert record(ledger, item, new_event("tsk_2", "results")) != set()

    assert states(ledger) == {"tsk_1:results": "queued", "tsk_1:archive": "queued", "tsk_2:results": "queued"}
    (run,) = ledger.read(lambda connection: queries.list_runs(connection, queries.Filter(run_id="tsk_1")))
    assert (run["outcome"], run["events"], run["deliveries"]) == ("completed", 1, {"queued": 2})


def test_a_run_stands_as_its_newest_event_says_and_counts_all(ledger: Ledger) -> None:
    record(ledger, new_event("wr_1", status="running", workflow_title="Invoices"))
    stale = new_event("wr_1", status="failed", failure_reason="old")._replace(newest=False)
    record(ledger, stale, new_event("wr_1", status="completed"))

    (run,) = ledger.read(lambda connection: queries.list_runs(connection, queries.Filter()))
    assert (run["status"], run["events"], run["title"]) == ("completed", 3, "Invoices")


def test_history_tells_what_was_recorded_in_its_order(ledger: Ledger) -> None:
    first, second = new_event("wr_1", n=1), new_event("wr_1", n=2, disposition="repeat")
    record(ledger, first)
    record(ledger, second)
    unreadable = new_event("wr_1", n=3, disposition="unreadable")
    record(ledger, unreadable)

    parsed = [ParsedEvent(first.event, first.run, first.body)]
    known = ledger.write(lambda connection: load.load(connection, parsed, (), NOW).runs)

    assert [each.event_id for each in known["skyvern", "wr_1"].facts] == [first.event.id, second.event.id]


# --- Claims


def test_a_claim_has_one_owner(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "results") for n in range(40)))
    taken: list[list[str]] = []

    def work(owner: int) -> None:
        mine: list[str] = []
        while got := claim(ledger, "results", owner=f"w{owner}", limit=3):
            mine += [each.id for each in got]
        taken.append(mine)

    threads = [threading.Thread(target=work, args=(owner,)) for owner in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    everything = [each for mine in taken for each in mine]
    assert len(everything) == len(set(everything)) == 40


def test_a_claim_takes_no_more_bytes_than_memory_has_room_for(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "results", output="x" * 2000) for n in range(5)))
    record(ledger, new_event("tsk_big", "results", output="x" * 9000), now=NOW + 1)

    sizes = [len(claim(ledger, "results", now=NOW + 2, most_bytes=5000)) for _ in range(4)]

    assert sizes == [2, 2, 1, 1]


def test_settlement_after_a_lapse_keeps_only_the_attempt(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "results"))
    asleep = claim(ledger, "results", owner="slow")

    assert ledger.write(lambda connection: recovery.lapse_claims(connection, NOW + 16)) == 1
    awake = claim(ledger, "results", owner="quick", now=NOW + 16)
    settle(ledger, asleep, DeliveryMove.DIE, owner="slow", now=NOW + 17)
    assert states(ledger) == {"tsk_1:results": "sending"}
    settle(ledger, awake, DeliveryMove.ACCEPT, owner="quick", now=NOW + 18)

    assert states(ledger) == {"tsk_1:results": "delivered"}
    kept = ledger.read(lambda connection: queries.list_attempts(connection, awake[0].id))
    assert [(each["number"], each["outcome"]) for each in kept] == [(1, "refused"), (2, "accepted")]


def test_receipt_after_a_lapse_counts_if_not_claimed_since(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "results"))
    claimed = claim(ledger, "results")
    assert ledger.write(lambda connection: recovery.lapse_claims(connection, NOW + 16)) == 1
    settle(ledger, claimed, DeliveryMove.ACCEPT, now=NOW + 17, receipt={"id": "r1"})
    assert states(ledger) == {"tsk_1:results": "delivered"}
    (attempt,) = ledger.read(lambda connection: queries.list_attempts(connection, claimed[0].id))
    assert (attempt["outcome"], attempt["receipt"]) == ("accepted", {"id": "r1"})


def test_lapsed_claim_in_a_batch_stays_with_its_new_owner(ledger: Ledger) -> None:
    # Given two deliveries that were claimed together, of which one has lapsed and is claimed again by the same owner
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in (1, 2)))
    first, second = sorted(claim(ledger, "ops"), key=lambda each: each.run_id)
    assert ledger.write(lambda connection: claims.renew(connection, "w", [second], NOW + 99)) == [second]
    assert ledger.write(lambda connection: recovery.lapse_claims(connection, NOW + 16)) == 1
    (again,) = claim(ledger, "ops", now=NOW + 16)
    # When the answers to the first claim come
    settle(ledger, [first, second], DeliveryMove.ACCEPT, now=NOW + 17)
    # Then the one that is under way again is left to that send
    assert states(ledger) == {"tsk_1:ops": "sending", "tsk_2:ops": "delivered"}
    settle(ledger, [again], DeliveryMove.ACCEPT, now=NOW + 18)
    assert set(states(ledger).values()) == {"delivered"}


def test_claim_that_went_to_another_is_settled_by_that_one(ledger: Ledger) -> None:
    # Given a delivery that one worker handed back, so that the other's attempt has the same number
    record(ledger, new_event("tsk_1", "ops"))
    first = claim(ledger, "ops", owner="w1")
    hand_back(ledger, first, owner="w1")
    second = claim(ledger, "ops", owner="w2")
    assert [each.attempt_number for each in (*first, *second)] == [1, 1]
    # When the first renews it, hands it back again, or reports a failure
    assert ledger.write(lambda it: claims.renew(it, "w1", first, NOW + 60)) == []
    hand_back(ledger, first, owner="w1")
    settle(ledger, first, DeliveryMove.DIE, owner="w1")
    # Then the other still has it
    assert states(ledger) == {"tsk_1:ops": "sending"}
    settle(ledger, second, DeliveryMove.ACCEPT, owner="w2", receipt={"id": "r"})
    assert states(ledger) == {"tsk_1:ops": "delivered"}


def test_renewal_extends_only_the_attempt_it_names(ledger: Ledger) -> None:
    # Given a delivery that lapsed, and is claimed again by the same process
    record(ledger, new_event("tsk_1", "ops"))
    (first,) = claim(ledger, "ops", owner="w")
    assert ledger.write(lambda connection: recovery.lapse_claims(connection, NOW + 16)) == 1
    (second,) = claim(ledger, "ops", owner="w", now=NOW + 16)
    # When it renews both attempts, then the lapsed one is not renewed, and alone it extends nothing
    assert ledger.write(lambda it: claims.renew(it, "w", [first, second], NOW + 40)) == [second]
    assert ledger.write(lambda it: claims.renew(it, "w", [first], NOW + 60)) == []
    assert ledger.write(lambda connection: recovery.lapse_claims(connection, NOW + 41)) == 1


def test_renewal_waits_for_no_row_that_another_transaction_has(postgres: PostgresProcess) -> None:
    # Given two claims, one of whose rows another transaction has locked
    ledger = with_tables(
        Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{postgres.port}/{postgres.create_database()}")
    )
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(2)))
    locked, free = claim(ledger, "ops", owner="w")

    def renew_meanwhile(connection: sa.Connection) -> list[Claimed]:
        connection.execute(sa.select(deliveries).where(deliveries.c.id == locked.id).with_for_update())
        return ledger.write(lambda other: claims.renew(other, "w", [locked, free], NOW + 60))

    # When both are renewed, then the other one is, at once
    assert ledger.write(renew_meanwhile) == [free]
    ledger.close()


# --- Claims that lapse


def test_what_lapses_a_second_time_is_due_one_after_the_other(ledger: Ledger) -> None:
    # Given four deliveries whose worker is killed, which may be the doing of one of them
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(4)))

    def kill_worker(now: float) -> list[float]:
        assert len(claim(ledger, "ops", owner="w", now=now)) == 4
        assert ledger.write(lambda it: recovery.release_claims(it, "w", now)) == 4
        rows = ledger.read(lambda it: queries.list_deliveries(it, queries.Filter()))
        return sorted(round(row["due_at"] - now, 3) for row in rows)

    # Then they are due at once, and have spent nothing
    assert kill_worker(NOW) == [0, 0, 0, 0]
    assert spent(ledger) == {0}
    # And when that happens again, not all together any more
    assert kill_worker(NOW + 1) == [2.5, 5, 7.5, 10]
    assert kill_worker(NOW + 20) == [5, 10, 15, 20]
    assert spent(ledger) == {2}


def spent(ledger: Ledger) -> set[int]:
    return set(ledger.read(lambda connection: connection.execute(sa.select(deliveries.c.spent)).scalars()))


def lapse(ledger: Ledger, now: float) -> None:
    assert len(claim(ledger, "ops", owner="w", now=now)) == 1
    assert ledger.write(lambda it: recovery.release_claims(it, "w", now)) == 1


def test_what_lapses_four_times_in_a_row_is_dead(ledger: Ledger) -> None:
    # Given a delivery whose worker was killed three times, and one that waits for it
    record(ledger, new_event("tsk_1", "ops", NewDelivery("next", "all", after=("ops",))))
    for number in range(3):
        lapse(ledger, NOW + 100 * number)
    assert states(ledger) == {"tsk_1:ops": "queued", "tsk_1:next": "held"}
    # When that happens once more
    lapse(ledger, NOW + 300)
    # Then it is dead with the reason, and what waited for it goes on
    assert states(ledger) == {"tsk_1:ops": "dead", "tsk_1:next": "queued"}
    (row,) = ledger.read(lambda it: queries.list_deliveries(it, queries.Filter(sink="ops")))
    assert row["reason"] == recovery.POISONED
    kept = ledger.read(lambda it: queries.list_attempts(it, row["id"]))
    assert [(each["number"], each["outcome"]) for each in kept] == [(n, "lapsed") for n in range(1, 5)]


# --- Waiting and held


def test_waiting_delivery_is_queued_when_it_is_due(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "results"))
    settle(ledger, claim(ledger, "results"), DeliveryMove.DEFER, due_at=NOW + 5)

    def look(at: float) -> tuple[bool, int, bool]:
        due = ledger.read(look_of_the_clock).due <= at
        made = ledger.write(lambda connection: recovery.make_due(connection, at))
        return due, made, ledger.read(lambda connection: claims.due_sinks(connection, ["results"], at)) == ["results"]

    assert look(NOW + 4) == (False, 0, False)
    assert look(NOW + 5) == (True, 1, True)


# --- Lanes


def put(ledger: Ledger, lane: Lane) -> None:
    ledger.write(lambda connection: lanes.put(connection, lane, NOW))


def test_open_breaker_lets_only_one_probe_through(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops", "results") for n in range(3)))
    put(ledger, Lane("ops", "ops", breaker="open", failures=5, until=NOW + 10))

    assert claim(ledger, "ops") == []
    assert not ledger.read(lambda connection: claims.due_sinks(connection, ["ops"], NOW))
    assert len(claim(ledger, "results")) == 3

    probe = claim(ledger, "ops", now=NOW + 10)
    assert [each.probe for each in probe] == [True]
    assert claim(ledger, "ops", now=NOW + 11) == []

    put(ledger, Lane("ops", "ops"))
    assert [each.probe for each in claim(ledger, "ops", now=NOW + 12)] == [False, False]


def test_empty_lane_whose_time_is_up_probes_with_the_next(ledger: Ledger) -> None:
    # Given a lane whose time is up, and nothing to send
    put(ledger, Lane("ops", "ops", breaker="open", failures=5, until=NOW - 1))
    # When a worker looks, and deliveries come just after
    assert claim(ledger, "ops") == []
    record(ledger, new_event("r1", "ops"), new_event("r2", "ops"))
    # Then one is the probe, at once, and the other waits for its end
    (probe,) = claim(ledger, "ops", now=NOW + 0.1)
    assert probe.probe
    assert [lane.breaker for lane in ledger.read(every_lane)] == ["probing"]
    assert claim(ledger, "ops", now=NOW + 0.2) == []
    assert len(claim(ledger, "ops", now=NOW + 0.1 + lanes.PROBE_LEASE)) == 1


def test_a_paused_sink_sends_nothing_until_it_is_resumed(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    ledger.write(lambda connection: lanes.set_paused(connection, "ops", True, NOW))
    assert claim(ledger, "ops") == []
    assert not ledger.read(lambda connection: claims.due_sinks(connection, ["ops"], NOW))

    ledger.write(lambda connection: lanes.set_paused(connection, "ops", False, NOW))
    assert len(claim(ledger, "ops")) == 1


# --- Retention, and many at once


def test_retention_keeps_events_with_open_deliveries(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_old", "results"), new_event("tsk_open", "ops"))
    settle(ledger, claim(ledger, "results"), DeliveryMove.ACCEPT, receipt={"id": "x"})

    assert ledger.write(lambda connection: retention.remove(connection, NOW)).rows == 0
    assert ledger.write(lambda connection: retention.remove(connection, NOW + 1)).rows == 1

    assert states(ledger) == {"tsk_open:ops": "queued"}
    runs = ledger.read(lambda connection: queries.list_runs(connection, queries.Filter()))
    assert [run["run_id"] for run in runs] == ["tsk_open"]


def test_run_stays_until_its_last_event_is_removed(ledger: Ledger) -> None:
    # Given two old events of one run, one of them not sent yet
    record(ledger, new_event("tsk_1", "results"), new_event("tsk_1", "ops", status="failed"))
    settle(ledger, claim(ledger, "results"), DeliveryMove.ACCEPT, receipt={"id": "x"})

    assert ledger.write(lambda connection: retention.remove(connection, NOW + 1)).rows == 1

    assert [run["run_id"] for run in ledger.read(lambda c: queries.list_runs(c, queries.Filter()))] == ["tsk_1"]
    # And it goes with the last of them
    settle(ledger, claim(ledger, "ops"), DeliveryMove.ACCEPT, receipt={"id": "x"})
    assert ledger.write(lambda connection: retention.remove(connection, NOW + 1)).rows == 1
    assert ledger.read(lambda c: queries.list_runs(c, queries.Filter())) == []


def test_due_sinks_are_found_among_a_thousand(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "sink_7", "sink_900"))

    sinks = [f"sink_{number}" for number in range(1000)]
    assert ledger.read(lambda it: claims.due_sinks(it, sinks, NOW)) == ["sink_7", "sink_900"]
