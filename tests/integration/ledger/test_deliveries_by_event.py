"""Which deliveries are of an event, for which no index begins with the event, and which event is theirs."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from receiver.domain.event import short_id
from receiver.ledger import Connection, Ledger
from receiver.ledger.actions import REPLAY, Action, Selection
from receiver.ledger.deliveries_by_event import event_of, of_event, of_events
from receiver.ledger.schema import deliveries, events
from tests.support.backlog import analyze, effort
from tests.support.ledger import NOW

MANY = 2_000


def event_id(number: int) -> str:
    return f"evt_{hashlib.md5(str(number).encode()).hexdigest()}"


def fill(ledger: Ledger) -> None:
    """Make MANY events of no run and as many of runs, each with a delivery."""

    def work(connection: Connection) -> None:
        same = {"via": "webhook", "run_type": "", "status": "", "outcome": "", "attempt": 1, "retry_pending": False}
        same |= {"final": True, "fingerprint": "f", "output_null": False, "disposition": "new", "unrouted": False}
        same |= {"problem": "", "submission_id": "", "received_at": NOW, "recorded_at": NOW, "body": b"{}"}
        named = [(event_id(n), f"tsk_{n}" if n >= MANY else "") for n in range(2 * MANY)]
        told = [{"id": event, "source": "main", "run_id": run, **same} for event, run in named]
        made = {"sink": "db", "lane": "db", "route": "all", "source": "main", "state": "delivered", "due_at": NOW}
        made |= {"created_at": NOW, "updated_at": NOW}
        theirs = [{"id": f"dlv_{event}", "event_id": event, "run_id": run, **made} for event, run in named]
        connection.execute(sa.insert(events), told)
        connection.execute(sa.insert(deliveries), theirs)

    ledger.write(work)
    analyze(ledger)


def test_deliveries_of_events_are_found_without_those_of_others_whether_or_not_these_have_a_run(ledger: Ledger) -> None:
    # Given many events of no run, which stand side by side where deliveries are found by run, and many of runs
    fill(ledger)
    wanted = [
        ("main", "", event_id(7)),
        ("main", f"tsk_{MANY + 7}", event_id(MANY + 7)),
        ("main", "", event_id(2 * MANY)),
    ]
    by_events = sa.select(deliveries.c.id).select_from(events.join(deliveries, of_event(events)))

    def found(connection: Connection) -> list[list[str]]:
        of_these = sa.select(deliveries.c.id).where(of_events(wanted)).order_by(deliveries.c.id)
        joined = by_events.where(events.c.id.in_([key[2] for key in wanted])).order_by(deliveries.c.id)
        return [list(connection.execute(query).scalars()) for query in (of_these, joined)]

    # When the deliveries of some of both are looked for
    # Then they are found
    assert ledger.read(found) == [[f"dlv_{event_id(7)}", f"dlv_{event_id(MANY + 7)}"]] * 2
    # And hardly more is read than they are
    assert effort(ledger, found) < 150
    # And of no events, none is
    assert ledger.read(lambda it: it.execute(sa.select(deliveries.c.id).where(of_events([]))).all()) == []


def test_the_event_of_a_delivery_is_found_without_others_whether_or_not_it_has_a_run(ledger: Ledger) -> None:
    # Given many events of no run, and many of runs
    fill(ledger)
    condition = event_of(deliveries, on_postgresql=ledger.dialect == "postgresql")
    joined = sa.select(events.c.id).select_from(deliveries.join(events, condition))
    query = joined.where(deliveries.c.id.in_([f"dlv_{event_id(7)}", f"dlv_{event_id(MANY + 7)}"]))

    def found(connection: Connection) -> set[str]:
        return set(connection.execute(query).scalars())

    # When those of deliveries of both are looked for, then they are found, and hardly more is read than they are
    assert ledger.read(found) == {event_id(7), event_id(MANY + 7)}
    assert effort(ledger, found) < 50


def test_an_operation_on_what_is_named_reads_hardly_more(ledger: Ledger) -> None:
    fill(ledger)
    event, run = event_id(7), f"tsk_{MANY + 7}"
    cases = {
        "an event": Selection(event_ids=(event,)),
        "an event whose id is cut": Selection(event_ids=(short_id(event),)),
        "only of an event": Selection(event_id=event),
        "a run": Selection(run_ids=(run,), source="main"),
        "only of a run": Selection(run_id=run, source="main"),
        "of several kinds": Selection(
            delivery_ids=(f"dlv_{event}",), event_ids=(event,), run_ids=(run,), source="main"
        ),
    }
    found = {name: ledger.read(lambda it: Action(REPLAY, each, force=True).count(it)) for name, each in cases.items()}  # noqa: B023
    assert found == {**dict.fromkeys(cases, 1), "of several kinds": 2}
    read = {name: effort(ledger, lambda it: Action(REPLAY, each, force=True).count(it)) for name, each in cases.items()}  # noqa: B023
    assert {name: each for name, each in read.items() if each > 150} == {}
