"""Remove old events whose deliveries have all ended, and old submissions; and erase the content of single runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import ENDED, DeliveryState
from receiver.domain.event import ERASED
from receiver.domain.run import RunKey
from receiver.domain.submission import OPEN
from receiver.errors import Conflict
from receiver.ledger.database import dialect
from receiver.ledger.deliveries.fair_queue import ONE_OF_MANY
from receiver.ledger.lists import words
from receiver.ledger.lists.filters import same_run
from receiver.ledger.recording.load import lock
from receiver.ledger.recording.write import NO_STATUS
from receiver.ledger.schema import attempts, deliveries, events, lanes, polls, runs, submissions, to_index
from receiver.ledger.submissions.records import change, erased

# Maximum rows of one transaction: others wait for the ledger.
BATCH = 500
# The row after which a step begins, by the columns of its order; None: it begins with the oldest.
Place = tuple[Any, ...] | None


class Removed(NamedTuple):
    """What one step has removed. `after`: where the next begins, None when nothing is left."""

    rows: int
    after: Place


def remove(connection: sa.Connection, before: float, after: Place = None) -> Removed:
    """Remove events recorded before `before`, with their deliveries, if all of these have ended. Reads BATCH events.

    `after`: from the previous step, so that events which must stay are not read again and again.
    """
    order = (events.c.recorded_at, events.c.seq)
    page, rest = _page(connection, order, before, after, events.c.id, events.c.source, events.c.run_id)
    under_way = sa.select(deliveries.c.event_id).where(
        _of_events(page),
        deliveries.c.state.not_in([state.value for state in ENDED]),
    )
    busy = set(connection.execute(under_way).scalars()) if page else set()
    old = _locked(connection, [row for row in page if row.id not in busy])
    if not old:
        return Removed(0, rest)
    theirs = _of_events(old)
    connection.execute(sa.delete(attempts).where(attempts.c.delivery_id.in_(sa.select(deliveries.c.id).where(theirs))))
    connection.execute(sa.delete(deliveries).where(theirs))
    connection.execute(sa.delete(events).where(events.c.id.in_([row.id for row in old])))
    theirs = dialect.of_runs(runs, ((row.source, row.run_id) for row in old))
    # The row of an erased run stays: a late webhook must not bring the content back.
    unused = (theirs, runs.c.updated_at < before, runs.c.erased_at.is_(None), _NO_EVENTS)
    removed = sa.delete(runs).where(*unused, _NO_SUBMISSION)
    # That of a submitted run stays empty as long as its submission: a late webhook finds it there.
    emptied = sa.update(runs).where(*unused, sa.not_(_NO_SUBMISSION)).values(**_EMPTY)
    for change_runs in (removed, emptied):
        gone = connection.execute(change_runs.returning(runs.c.source, runs.c.run_id)).all()
        words.remove(connection, [(row.source, row.run_id) for row in gone])
    return Removed(len(old), rest)


def _lacks(of: sa.Table, *key: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return the condition that no row of another table has this key. It is looked up for each row of `of`."""
    return sa.select(sa.literal_column("1")).where(*key).correlate(of).limit(1).scalar_subquery().is_(None)


_NO_EVENTS: Final = _lacks(runs, *same_run(events, runs))
_EMPTY: Final = {**NO_STATUS, "events": 0}
_NO_SUBMISSION: Final = _lacks(runs, *same_run(submissions, runs))


def remove_submissions(connection: sa.Connection, before: float, after: Place = None) -> Removed:
    """Remove ended submissions last changed before `before` whose runs have no events left. Reads BATCH, as `remove`.

    A submission that is polled has not ended. One that deliveries to its caller need still has events.
    """
    it = submissions.c
    page, rest = _page(connection, (it.created_at, it.id), before, after)
    named = (runs.c.submission_id == it.id, runs.c.submission_id != sa.literal_column("''"))  # retries of its run, too
    ended = sa.and_(
        *(it.updated_at < before, it.state.not_in(sorted(OPEN))),
        _lacks(submissions, *same_run(polls, submissions)),
        sa.or_(it.run_id == "", _lacks(submissions, *same_run(events, submissions))),
        _lacks(submissions, *named, *same_run(events, runs)),
    )
    old = sa.select(it.id).where(dialect.among(it.id, [row.id for row in page]), ended).order_by(it.id)
    locked = connection.execute(old.with_for_update(skip_locked=True)).scalars().all()
    # Checked again: an event may have been recorded before the lock.
    return Removed(connection.execute(sa.delete(submissions).where(dialect.among(it.id, locked), ended)).rowcount, rest)


def remove_idle_runs(connection: sa.Connection, before: float, after: Place = None) -> Removed:
    """Remove runs last changed before `before` without event, submission and poll. Reads BATCH, as `remove`."""
    it = runs.c
    page, rest = _page(connection, (it.updated_at, it.run_id, it.source), before, after)
    idle = sa.and_(
        *(it.updated_at < before, _lacks(runs, *same_run(polls, runs)), it.erased_at.is_(None), _NO_EVENTS),
        *(_NO_SUBMISSION, _lacks(runs, submissions.c.id == it.submission_id)),
    )
    old = sa.select(it.source, it.run_id).where(dialect.of_runs(runs, [(row.source, row.run_id) for row in page]), idle)
    locked = connection.execute(old.order_by(it.source, it.run_id).with_for_update(skip_locked=True)).all()
    these = dialect.of_runs(runs, [(row.source, row.run_id) for row in locked])
    gone = connection.execute(sa.delete(runs).where(these, idle).returning(it.source, it.run_id)).all()
    words.remove(connection, [(row.source, row.run_id) for row in gone])
    return Removed(len(gone), rest)


def _page(
    connection: sa.Connection, order: Sequence[sa.Column[Any]], before: float, after: Place, *columns: sa.Column[Any]
) -> tuple[Sequence[Any], Place]:
    """Return the next BATCH rows in an order that begins with their time, and where the page after them begins."""
    rows = sa.select(*order, *columns).where(order[0] < before).order_by(*order).limit(BATCH)
    page = connection.execute(rows if after is None else rows.where(sa.tuple_(*order) > after)).all()
    return page, tuple(page[-1][: len(order)]) if len(page) == BATCH else None


def _of_events(rows: Iterable[Any]) -> sa.ColumnElement[bool]:
    return dialect.among(deliveries.c.event_id, [row.id for row in rows])


def _locked(connection: sa.Connection, rows: Sequence[Any]) -> list[Any]:
    """Lock the events that no other transaction has locked, with their deliveries. Return those without pending ones.

    It waits for a replay that queues one of them, and then keeps its event. No delivery is added to a locked event
    (`creation.add`).
    """
    if not rows:
        return []
    free = sa.select(events.c.id).where(dialect.among(events.c.id, [row.id for row in rows]))
    locked = set(connection.execute(free.order_by(events.c.id).with_for_update(skip_locked=True)).scalars())
    found = {row.id: row for row in rows if row.id in locked}
    theirs = sa.select(deliveries.c.event_id, deliveries.c.state).order_by(deliveries.c.id).with_for_update()
    for row in connection.execute(theirs.where(_of_events(found.values()))):
        if DeliveryState(row.state) not in ENDED:
            found.pop(row.event_id, None)
    return list(found.values())


def remove_lanes(connection: sa.Connection, before: float) -> int:
    """Remove up to BATCH lanes of destinations, such as callers' addresses, that changed last before `before` and in
    which nothing is queued; never a whole sink's own lane, and none that is paused. Returns how many."""
    old = sa.and_(lanes.c.updated_at < before, lanes.c.lane != lanes.c.sink, lanes.c.paused.is_(False))
    queued = (
        sa.select(sa.literal(1))
        .where(deliveries.c.sink == lanes.c.sink, ONE_OF_MANY, deliveries.c.lane == lanes.c.lane)
        .exists()
    )
    gone = list(connection.execute(sa.select(lanes.c.lane).where(old, ~queued).limit(BATCH)).scalars())
    if gone:
        connection.execute(sa.delete(lanes).where(dialect.among(lanes.c.lane, gone), old))
    return len(gone)


def require_erasable(connection: sa.Connection, key: RunKey) -> int:
    """Return how many bodies a run has. `key`: of a run, or the source and id of a submission without one. Raises
    Conflict if a result may still come, or deliveries are pending."""
    its = dialect.of_runs(deliveries, [key])
    pending = sa.select(deliveries.c.sink).where(its, deliveries.c.state.not_in(sorted(ENDED))).distinct()
    if sinks := sorted(connection.execute(pending).scalars()):
        raise Conflict(
            f"run {key[1]}: deliveries to {', '.join(sinks)} are pending. Wait for them, or `runhook cancel {key[1]}`"
        )
    final = sa.select(runs.c.final).where(dialect.of_runs(runs, [key]))
    if not connection.execute(final).scalar() and _is_awaited(connection, key):
        raise Conflict(f"{key[1]}: it has not ended, and its result would still come. Erase it afterwards")
    bodies = sa.select(sa.func.count()).where(dialect.of_runs(events, [key]), sa.func.length(events.c.body) > 0)
    return connection.execute(bodies).scalar_one()


def _is_awaited(connection: sa.Connection, key: RunKey) -> bool:
    """Whether a run that is not final, or a submission without a run, may still get a result."""
    it = submissions.c
    reported = sa.select(runs.c.source).where(dialect.of_runs(runs, [key]), runs.c.events > 0)
    its = sa.or_(it.run_id == key[1], it.id == key[1])
    got_run = sa.and_(it.id == key[1], it.run_id != "")  # meanwhile
    is_polled = sa.not_(_lacks(submissions, *same_run(polls, submissions)))
    is_open = sa.or_(is_polled, it.state.in_(sorted(OPEN)), got_run)
    submitted = sa.select(it.source).where(it.source == key[0], its, is_open)
    return connection.execute(reported.union_all(submitted)).first() is not None


def erase(connection: sa.Connection, key: RunKey, by: str, now: float) -> int:
    """Erase the content of a run. Its row, events, deliveries and receipts stay. Returns how many bodies there were.

    Events of the run that come later are recorded without their bodies, and nothing of it is sent again. Erasing
    twice is harmless. The row of a submission without a run stays. Raises Conflict as `require_erasable`.
    """
    it = submissions.c
    if change(connection, key[1], it.run_id == "", it.state.not_in(sorted(OPEN)), **erased("")):
        return 0  # a submission without a run
    lock(connection, [key], now, needed=[key])
    locked = connection.execute(sa.select(events.c.id).where(dialect.of_runs(events, [key]))).all()
    free, bodies = _locked(connection, locked), require_erasable(connection, key)
    if len(free) < len(locked):
        raise Conflict(f"run {key[1]}: another transaction is changing it. Try again")

    def update(table: sa.Table, **values: Any) -> None:
        connection.execute(sa.update(table).where(dialect.of_runs(table, [key])).values(values))

    update(events, body=b"", completion="", statement="", extent="", problem=ERASED)
    theirs = attempts.c.delivery_id.in_(sa.select(deliveries.c.id).where(dialect.of_runs(deliveries, [key])))
    # The note keeps the response of a late result out, see deliveries/attempts.py.
    hold = sa.or_(attempts.c.response != "", attempts.c.outcome == "lapsed")
    connection.execute(sa.update(attempts).where(theirs, hold).values(response=ERASED))
    update(submissions, **erased(key[1]))
    gone: dict[str, Any] = {"title": None, "prompt": None, "failure_reason": None, "labels": "{}"}
    update(runs, **gone, erased_at=now, erased_by=by)
    for table in (polls, to_index):
        connection.execute(sa.delete(table).where(dialect.of_runs(table, [key])))
    words.remove(connection, [key])
    return bodies


def forget_receipt(connection: sa.Connection, attempt: Any) -> None:
    """Replace the receipt of an attempt whose copies the sink has deleted by a note: their names may be content too."""
    its = sa.and_(attempts.c.delivery_id == attempt.delivery_id, attempts.c.number == attempt.number)
    connection.execute(sa.update(attempts).where(its).values(receipt=json.dumps({"note": "erased"})))
