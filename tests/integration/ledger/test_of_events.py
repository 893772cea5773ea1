"""Which deliveries are of an event, for which there is no index that begins with the event."""

from __future__ import annotations

import sqlalchemy as sa

from receiver.ledger import Connection, Ledger
from receiver.ledger.of_events import of_event, of_events
from receiver.ledger.schema import deliveries, events
from tests.support.backlog import analyze, effort
from tests.support.ledger import NOW

MANY = 2_000


def fill(ledger: Ledger) -> None:
    """Make MANY events of no run and as many of runs, each with a delivery."""

    def work(connection: Connection) -> None:
        same = {"via": "webhook", "run_type": "", "status": "", "outcome": "", "attempt": 1, "retry_pending": False}
        same |= {"final": True, "fingerprint": "f", "output_null": False, "disposition": "new", "unrouted": False}
        same |= {"problem": "", "submission_id": "", "received_at": NOW, "recorded_at": NOW, "body": b"{}"}
        named = [(f"evt_{n}", f"tsk_{n}" if n >= MANY else "") for n in range(2 * MANY)]
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
    wanted = [("main", "", "evt_7"), ("main", f"tsk_{MANY + 7}", f"evt_{MANY + 7}"), ("main", "", "evt_none")]
    by_events = sa.select(deliveries.c.id).select_from(events.join(deliveries, of_event(events)))

    def found(connection: Connection) -> list[list[str]]:
        of_these = sa.select(deliveries.c.id).where(of_events(connection, wanted)).order_by(deliveries.c.id)
        joined = by_events.where(events.c.id.in_([key[2] for key in wanted])).order_by(deliveries.c.id)
        return [list(connection.execute(query).scalars()) for query in (of_these, joined)]

    # When the deliveries of some of both are looked for
    # Then they are found
    assert ledger.read(found) == [[f"dlv_evt_{MANY + 7}", "dlv_evt_7"]] * 2
    # And hardly more is read than they are
    assert effort(ledger, found) < 150
    # And of no events, none is
    assert ledger.read(lambda it: it.execute(sa.select(deliveries.c.id).where(of_events(it, []))).all()) == []
