"""The ledger on SQLite and PostgreSQL: what is written once stays once, and a claim has one owner."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from receiver.domain.breaker import Lane
from receiver.domain.delivery import DeliveryMove
from receiver.domain.event import Event, delivery_id, event_id
from receiver.domain.run import parse
from receiver.ledger import Ledger, LedgerDataError, agenda, retention
from receiver.ledger.deliveries import claims, lanes, recovery
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.deliveries.fair_queue import Rotation
from receiver.ledger.events import NewDelivery, NewEvent
from receiver.ledger.schema import deliveries
from tests.support import queries
from tests.support.backlog import look_of_the_clock
from tests.support.ledger import NOW, claim, event_body, lock_runs, new_event, record, settle, settle_in, states

# --- Connections


def test_threads_that_use_a_ledger_first_at_the_same_moment_share_its_connections(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    known = ledger.write(lambda connection: lock_runs(connection, [("skyvern", "wr_1")], NOW))

    assert [each.event_id for each in known["skyvern", "wr_1"].history] == [first.event.id, second.event.id]


def test_bodies_that_no_text_column_takes_are_kept_byte_for_byte(ledger: Ledger) -> None:
    for body in (b"\x00\xff\xfe", b'{"run_id":"a","status":"completed","output":"\\u0000\\ud800"}', b"9" * 5000):
        event = Event(event_id("skyvern", body), "skyvern", body, NOW)
        record(ledger, NewEvent(event, parse(body), body, None, disposition="unreadable"))
        assert event_body(ledger, event.id) == body


def test_a_value_that_the_database_refuses_is_told_from_a_ledger_that_is_away(ledger: Ledger) -> None:
    item = new_event("tsk_1")
    surrogate = Event("evt_\ud800", "skyvern", b"", NOW)

    with pytest.raises(LedgerDataError):
        record(ledger, NewEvent(surrogate, item.run, b"", None, disposition="unreadable"))
    assert ledger.read(lambda connection: queries.list_events(connection, queries.Filter())) == []


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


def test_a_claim_takes_no_more_bytes_than_memory_has_room_for(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "CLAIM_BYTES", 5000)
    record(ledger, *(new_event(f"tsk_{n}", "results", output="x" * 2000) for n in range(5)))
    record(ledger, new_event("tsk_big", "results", output="x" * 9000), now=NOW + 1)

    sizes = [len(claim(ledger, "results", now=NOW + 2)) for _ in range(4)]

    assert sizes == [2, 2, 1, 1]


def test_a_claimed_delivery_brings_its_event(ledger: Ledger) -> None:
    item = new_event("tsk_1", "results")
    record(ledger, item)

    (claimed,) = claim(ledger, "results")

    assert claimed.id == delivery_id(item.event.id, "results")
    assert (claimed.body, claimed.attempt_number, claimed.outcome, claimed.received_at) == (
        item.body,
        1,
        "completed",
        NOW,
    )


@pytest.mark.parametrize(
    ("move", "state"), [(DeliveryMove.ACCEPT, "delivered"), (DeliveryMove.DEFER, "waiting"), (DeliveryMove.DIE, "dead")]
)
def test_the_result_of_a_send_is_recorded(ledger: Ledger, move: DeliveryMove, state: str) -> None:
    record(ledger, new_event("tsk_1", "results"))
    claimed = claim(ledger, "results")

    settle(ledger, claimed, move, due_at=NOW + 5, receipt={"id": "r1"} if move is DeliveryMove.ACCEPT else None)

    assert states(ledger) == {"tsk_1:results": state}
    (attempt,) = ledger.read(lambda connection: queries.list_attempts(connection, claimed[0].id))
    assert (attempt["number"], attempt["worker"]) == (1, "w")


def test_a_worker_that_overslept_its_claim_changes_nothing_but_its_attempt_is_kept(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "results"))
    asleep = claim(ledger, "results", owner="slow")

    assert ledger.write(lambda connection: recovery.lapse_claims(connection, NOW + 16)) == 1
    awake = claim(ledger, "results", owner="quick", now=NOW + 16)
    settle(ledger, asleep, DeliveryMove.DIE, owner="slow", now=NOW + 17)
    assert states(ledger) == {"tsk_1:results": "sending"}
    settle(ledger, awake, DeliveryMove.ACCEPT, owner="quick", now=NOW + 18)

    assert states(ledger) == {"tsk_1:results": "delivered"}
    kept = ledger.read(lambda connection: queries.list_attempts(connection, awake[0].id))
    assert [(each["number"], each["outcome"]) for each in kept] == [(1, "lapsed"), (2, "accepted")]


@pytest.mark.parametrize("claims_at_once", [1, 2])
def test_settled_with_others_a_delivery_that_is_claimed_anew_stays_with_its_new_claim(
    ledger: Ledger, claims_at_once: int
) -> None:
    # Given two deliveries that were claimed together, of which one has lapsed and is claimed again, with a third
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in (1, 2)))
    first, second = sorted(claim(ledger, "ops"), key=lambda each: each.run_id)
    ledger.write(lambda it: claims.hand_back(it, "w", {first.id: 1}, NOW))
    record(ledger, new_event("tsk_3", "ops"))
    again = ledger.write(lambda it: claims.claim(it, "ops", 8, "w", 2, NOW, 15))
    third = next(each for each in again if each.run_id == "tsk_3")

    # When the answers to the first claim come, and those to the rest of the second, and are settled, also together
    def accepted(*claimed: Claimed) -> list[AttemptResult]:
        return [
            AttemptResult(it.id, it.event_id, NOW, 1, DeliveryMove.ACCEPT, "accepted", "", NOW, NOW) for it in claimed
        ]

    results = [{1: accepted(first, second), 2: accepted(third)}]
    if claims_at_once == 1:
        results = [{number: of} for number, of in results[0].items()]
    for each in results:
        ledger.write(lambda it, each=each: settle_in(it, "w", each, NOW))  # type: ignore[misc]
    # Then the one that is under way again is left to that send
    assert states(ledger) == {"tsk_1:ops": "sending", "tsk_2:ops": "delivered", "tsk_3:ops": "delivered"}


def test_a_renewed_claim_does_not_lapse(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "results"))
    claim(ledger, "results", owner="w")

    assert ledger.write(lambda connection: claims.renew(connection, "w", {1}, NOW + 60)) == 1

    assert ledger.write(lambda connection: recovery.lapse_claims(connection, NOW + 30)) == 0


def test_a_claim_is_renewed_by_its_owner_alone_and_only_one_that_it_knows(ledger: Ledger) -> None:
    # Given claims of two owners with the same number, and one whose owner never heard of it
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(3)))
    for owner, number in (("w", 1), ("dead", 1), ("w", 2)):
        ledger.write(lambda it, owner=owner, number=number: claims.claim(it, "ops", 1, owner, number, NOW, 15))  # type: ignore[misc]
    # When an owner renews what it knows
    assert ledger.write(lambda connection: claims.renew(connection, "w", {1}, NOW + 60)) == 1
    # Then the others lapse
    assert ledger.write(lambda connection: recovery.lapse_claims(connection, NOW + 30)) == 2
    assert Counter(states(ledger).values()) == {"sending": 1, "queued": 2}


# --- Prefetched claims


def test_what_is_prefetched_takes_no_slot_until_it_has_started_and_no_attempt_before(ledger: Ledger) -> None:
    # Given a sink with two slots, and an owner that has taken both and prefetched three more
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(8)))

    def take(owner: str, prefetch: int = 0, slots: int = 5) -> list[Claimed]:
        return ledger.write(
            lambda it: claims.claim(
                *(it, "ops", slots, owner, 1, NOW, 15), concurrency=2, prefetch=prefetch, has_slots=not slots
            )
        )

    claimed = take("w", prefetch=3)
    assert [each.prefetched for each in claimed] == [False, False, True, True, True]
    assert take("v") == []
    assert take("v", prefetch=3) == [], "for an owner without a slot nothing would start"
    # When one of them starts in the slot of one that has ended, and another is handed back
    first, second, next_task, unstarted, last = claimed

    def exchange(connection: sa.Connection) -> None:
        result = AttemptResult(
            first.id, first.event_id, first.created_at, 1, DeliveryMove.ACCEPT, "accepted", "", NOW, NOW
        )
        settle_in(connection, "w", {1: [result]}, NOW, started={next_task.id: 1})
        claims.hand_back(connection, "w", {unstarted.id: 1}, NOW)

    ledger.write(exchange)
    # Then there is still no slot for others, and what was handed back was never tried
    assert take("v") == []
    assert {each.id: each.attempt_number for each in take("v", prefetch=9, slots=0)}[unstarted.id] == 1
    # And when their owner dies, only what had a slot has spent an attempt
    assert ledger.write(lambda connection: recovery.release_claims(connection, "w", NOW)) == 3
    rows = ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter(limit=99)))
    assert {row["id"]: row["spent"] for row in rows if row["id"] in {second.id, next_task.id, last.id}} == {
        second.id: 1,
        next_task.id: 1,
        last.id: 0,
    }
    # And what was prefetched then is not prefetched again
    assert take("u", prefetch=9, slots=0) == []


def test_a_slot_is_free_for_others_though_its_sink_has_prefetched_deliveries(ledger: Ledger) -> None:
    # Given a sink with two slots, and an owner that has one of them, and two deliveries without a slot
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(5)))

    def take(owner: str, slots: int, prefetch: int) -> list[bool]:
        work = lambda it: claims.claim(it, "ops", slots, owner, 1, NOW, 15, concurrency=2, prefetch=prefetch)  # noqa: E731
        return [each.prefetched for each in ledger.write(work)]

    assert take("w", 1, 2) == [False, True, True]
    # Then another one gets the other slot, and no third one gets any
    assert take("v", 2, 0) == [False]
    assert take("u", 2, 0) == []


def test_a_slot_that_is_taken_changes_no_column_that_has_an_index(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(2)))
    first, ahead = ledger.write(lambda it: claims.claim(it, "ops", 1, "w", 1, NOW, 15, prefetch=1))
    before = indexed_values(ledger, ahead.id)
    result = AttemptResult(
        first.id, first.event_id, first.created_at, 1, DeliveryMove.ACCEPT, "accepted", "", NOW, NOW + 1
    )

    ledger.write(lambda it: settle_in(it, "w", {1: [result]}, NOW + 1, started={ahead.id: 1}))

    query = sa.select(deliveries.c.prefetched).where(deliveries.c.id == ahead.id)
    assert ledger.read(lambda it: it.execute(query).scalar_one()) is False
    assert indexed_values(ledger, ahead.id) == before


def indexed_values(ledger: Ledger, delivery: str) -> dict[str, object]:
    columns = {column for index in deliveries.indexes for column in index.columns}
    query = sa.select(deliveries.c.id, *columns).where(deliveries.c.id == delivery)
    return ledger.read(lambda it: dict(it.execute(query).one()._mapping))


def test_an_owner_prefetches_for_the_slots_it_has_though_others_have_the_rest(ledger: Ledger) -> None:
    # Given a sink with two slots, of which two owners have one each
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(5)))

    def take(owner: str, slots: int, *, prefetch: int = 0, has_slots: bool = False) -> list[Claimed]:
        return ledger.write(
            lambda it: claims.claim(
                *(it, "ops", slots, owner, 1, NOW, 15), concurrency=2, prefetch=prefetch, has_slots=has_slots
            )
        )

    assert len(take("v", 1)) == len(take("w", 1)) == 1
    # When one of them asks for the other's slot and to prefetch, then it gets what it can start in its own
    assert [each.prefetched for each in take("w", 1, prefetch=2, has_slots=True)] == [True, True]


@pytest.mark.parametrize("known", [True, False])
def test_what_a_dead_worker_had_prefetched_says_how_much_is_known_of_it(ledger: Ledger, known: bool) -> None:
    # Given one delivery that is being sent, and two that are prefetched, of which one had started
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(3)))
    sent, started, unstarted = ledger.write(
        lambda it: claims.claim(it, "ops", 1, "w", 1, NOW, 15, concurrency=1, prefetch=2)
    )
    # When their worker is found dead
    journal = {started.id} if known else None
    assert ledger.write(lambda it: recovery.release_claims(it, "w", NOW + 1, journal)) == 3
    # Then none is taken for an attempt that certainly was none
    unsure = "w ended with it prefetched: it may have arrived, or was never sent"
    sure = "w ended while sending: it may have arrived"
    told = {
        each.id: [
            (row["number"], row["outcome"], row["reason"])
            for row in ledger.read(lambda it, each=each: queries.list_attempts(it, each.id))  # type: ignore[misc]
        ]
        for each in (sent, started, unstarted)
    }
    assert told == {
        sent.id: [(1, "lapsed", sure)],
        started.id: [(1, "lapsed", sure if known else unsure)],
        unstarted.id: [] if known else [(1, "lapsed", unsure)],
    }
    rows = {row["id"]: row for row in ledger.read(lambda it: queries.list_deliveries(it, queries.Filter()))}
    assert {row["state"] for row in rows.values()} == {"queued"}
    assert rows[unstarted.id]["attempts"] == (0 if known else 1)
    assert (rows[sent.id]["spent"], rows[started.id]["spent"]) == (1, 0)


# --- Claims that lapse


def test_what_lapses_a_second_time_is_due_one_after_the_other(ledger: Ledger) -> None:
    # Given four deliveries whose worker is killed, which may be the doing of one of them
    record(ledger, *(new_event(f"tsk_{n}", "ops") for n in range(4)))

    def kill_worker(now: float) -> list[float]:
        assert len(claim(ledger, "ops", owner="w", now=now)) == 4
        assert ledger.write(lambda it: recovery.release_claims(it, "w", now)) == 4
        rows = ledger.read(lambda it: queries.list_deliveries(it, queries.Filter()))
        return sorted(round(row["due_at"] - now, 3) for row in rows)

    # Then they are due at once, as whatever else was under way would be
    assert kill_worker(NOW) == [0, 0, 0, 0]
    # And when that happens again, not all together any more
    assert kill_worker(NOW + 1) == [2.5, 5, 7.5, 10]
    assert kill_worker(NOW + 20) == [5, 10, 15, 20]
    assert kill_worker(NOW + 50) == [5, 10, 15, 20]


def test_what_was_tried_in_vain_before_is_due_at_once_when_its_worker_is_killed(ledger: Ledger) -> None:
    # Given a delivery that its sink could not take, so that it has spent an attempt
    record(ledger, new_event("tsk_1", "ops"))
    settle(ledger, claim(ledger, "ops"), DeliveryMove.DEFER, due_at=NOW)
    ledger.write(lambda it: recovery.make_due(it, NOW + 1))
    assert len(claim(ledger, "ops", owner="w", now=NOW + 1)) == 1
    # When its worker is killed
    ledger.write(lambda it: recovery.release_claims(it, "w", NOW + 2))
    # Then it need not wait: nothing says that it had to do with that
    (row,) = ledger.read(lambda it: queries.list_deliveries(it, queries.Filter()))
    assert (row["state"], row["due_at"]) == ("queued", NOW + 2)


def test_a_dead_workers_claims_are_released_at_once_and_nobody_elses(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "results"), new_event("tsk_2", "results"))
    claim(ledger, "results", owner="w_1", limit=1)
    claim(ledger, "results", owner="wx1", limit=1)

    assert ledger.write(lambda connection: recovery.release_claims(connection, "w_1", NOW)) == 1

    assert sorted(states(ledger).values()) == ["queued", "sending"]


# --- Waiting and held


def test_a_waiting_delivery_is_queued_when_it_is_due_and_not_before(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "results"))
    settle(ledger, claim(ledger, "results"), DeliveryMove.DEFER, due_at=NOW + 5)

    def look(at: float) -> tuple[bool, int, bool]:
        due = ledger.read(look_of_the_clock).due <= at
        made = ledger.write(lambda connection: recovery.make_due(connection, at))
        return due, made, ledger.read(lambda connection: claims.has_due(connection, "results", at))

    assert look(NOW + 4) == (False, 0, False)
    assert look(NOW + 5) == (True, 1, True)


# --- Lanes


def put(ledger: Ledger, lane: Lane) -> None:
    ledger.write(lambda connection: lanes.put(connection, lane, NOW))


def test_an_open_breaker_parks_its_lane_lets_one_probe_through_and_no_more(ledger: Ledger) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "ops", "results") for n in range(3)))
    put(ledger, Lane("ops", "ops", breaker="open", failures=5, until=NOW + 10))

    assert claim(ledger, "ops") == []
    assert not ledger.read(lambda connection: claims.has_due(connection, "ops", NOW))
    assert len(claim(ledger, "results")) == 3

    probe = claim(ledger, "ops", now=NOW + 10)
    assert [each.probe for each in probe] == [True]
    assert claim(ledger, "ops", now=NOW + 11) == []

    put(ledger, Lane("ops", "ops"))
    assert [each.probe for each in claim(ledger, "ops", now=NOW + 12)] == [False, False]


def test_one_destinations_open_breaker_holds_up_no_other_lane(ledger: Ledger) -> None:
    record(
        ledger,
        new_event("tsk_1", NewDelivery("callers", "r", lane="callers:a")),
        new_event("tsk_2", NewDelivery("callers", "r", lane="callers:b")),
    )
    put(ledger, Lane("callers:a", "callers", breaker="open", failures=5, until=NOW + 10))

    claimed = ledger.write(
        lambda it: claims.claim(it, "callers", 9, "w", 1, NOW, 15, concurrency=9, lane_limit=4, rotation=Rotation())
    )
    assert [each.run_id for each in claimed] == ["tsk_2"]


def test_a_paused_sink_sends_nothing_until_it_is_resumed(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"))
    ledger.write(lambda connection: lanes.set_paused(connection, "ops", True, NOW))
    assert claim(ledger, "ops") == []
    assert not ledger.read(lambda connection: claims.has_due(connection, "ops", NOW))

    ledger.write(lambda connection: lanes.set_paused(connection, "ops", False, NOW))
    assert len(claim(ledger, "ops")) == 1


# --- Retention, and many at once


def test_retention_removes_what_ended_and_keeps_what_is_under_way(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_old", "results"), new_event("tsk_open", "ops"))
    settle(ledger, claim(ledger, "results"), DeliveryMove.ACCEPT, receipt={"id": "x"})

    assert ledger.write(lambda connection: retention.remove(connection, NOW)).events == 0
    assert ledger.write(lambda connection: retention.remove(connection, NOW + 1)).events == 1

    assert states(ledger) == {"tsk_open:ops": "queued"}
    runs = ledger.read(lambda connection: queries.list_runs(connection, queries.Filter()))
    assert [run["run_id"] for run in runs] == ["tsk_open"]


def test_a_run_of_which_an_event_is_left_stays_however_long_nothing_changed(ledger: Ledger) -> None:
    # Given two old events of one run, one of them not sent yet
    record(ledger, new_event("tsk_1", "results"), new_event("tsk_1", "ops", status="failed"))
    settle(ledger, claim(ledger, "results"), DeliveryMove.ACCEPT, receipt={"id": "x"})

    assert ledger.write(lambda connection: retention.remove(connection, NOW + 1)).events == 1

    assert [run["run_id"] for run in ledger.read(lambda c: queries.list_runs(c, queries.Filter()))] == ["tsk_1"]
    # And it goes with the last of them
    settle(ledger, claim(ledger, "ops"), DeliveryMove.ACCEPT, receipt={"id": "x"})
    assert ledger.write(lambda connection: retention.remove(connection, NOW + 1)).events == 1
    assert ledger.read(lambda c: queries.list_runs(c, queries.Filter())) == []


def test_dispatchers_that_meet_on_the_same_runs_neither_deadlock_nor_double(ledger: Ledger) -> None:
    batches = [[new_event(f"tsk_{n}", "results", "archive") for n in order] for order in (range(60), range(59, -1, -1))]
    new: list[set[str]] = []
    failures: list[BaseException] = []

    def work(batch: list[NewEvent]) -> None:
        try:
            for start in range(0, 60, 20):
                new.append(record(ledger, *batch[start : start + 20]))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert sum(len(each) for each in new) == 60
    assert len(states(ledger)) == 120


def test_a_sweep_that_finds_nothing_is_one_indexed_query_for_each_question(
    ledger: Ledger, explain: Callable[[], list[str]]
) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "results") for n in range(50)))
    settle(ledger, claim(ledger, "results", limit=30), DeliveryMove.DEFER, due_at=NOW + 3600)

    def sweep(connection: sa.Connection) -> None:
        connection.execute(agenda.query(ledger.dialect == "postgresql"), {"b_now": NOW})
        claims.has_due(connection, "results", NOW)
        assert recovery.sweep_held(connection, NOW) == ([], "")

    ledger.read(sweep)

    look, *plans = explain()[-3:]  # before these come those of the claim
    # What is being sent is little: PostgreSQL may also find it by its state.
    indexes = ("deliveries_waiting", "deliveries_s", "operations_state")
    assert [index for index in indexes if f"ix_{index}" not in look] == []
    assert "SCAN deliveries" not in look.replace("SCAN deliveries USING", "")
    assert [plan for plan in plans if "ix_deliveries_" not in plan] == []


def test_claims_are_found_by_an_index_over_what_is_being_sent(ledger: Ledger, explain: Callable[[], list[str]]) -> None:
    record(ledger, *(new_event(f"tsk_{n}", "results") for n in range(50)))

    def work(connection: sa.Connection) -> None:
        claims.claim(connection, "results", 3, "w", 1, NOW, 15, concurrency=3)
        recovery.release_claims(connection, "w", NOW)

    ledger.write(work)

    plans = explain()
    counted, released = plans[0], plans[-1]  # the slots that are taken, and the claims of an owner
    for plan in (counted, released):
        assert "ix_deliveries_sending" in plan or "ix_deliveries_state" in plan


@pytest.fixture
def explain(ledger: Ledger) -> Callable[[], list[str]]:
    """The plans of the SELECTs on deliveries and operations that were run, as the database explains them."""
    seen: list[tuple[str, object]] = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def _note(_c: object, _cur: object, statement: str, parameters: object, _ctx: object, many: bool) -> None:
        tables = ("FROM deliveries", "FROM operations")  # the lanes are few: only those that met trouble have a row
        if statement.startswith("SELECT") and any(table in statement for table in tables) and not many:
            seen.append((statement, parameters))

    def plans() -> list[str]:
        sa.event.remove(sa.Engine, "before_cursor_execute", _note)

        def ask(connection: sa.Connection) -> list[str]:
            if ledger.dialect == "postgresql":
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            word = "EXPLAIN QUERY PLAN " if ledger.dialect == "sqlite" else "EXPLAIN "
            return [
                " ".join(" ".join(map(str, row)) for row in connection.exec_driver_sql(word + statement, parameters))  # type: ignore[arg-type]
                for statement, parameters in seen
            ]

        found = ledger.read(ask)
        assert found
        return found

    return plans
