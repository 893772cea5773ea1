"""Remove old events whose deliveries have all ended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import ENDED, DeliveryState
from receiver.ledger import dialect, words
from receiver.ledger.deliveries.fair_queue import ONE_OF_MANY
from receiver.ledger.schema import attempts, deliveries, events, lanes, runs

# Maximum events of one transaction: others wait for the ledger.
BATCH = 500
# Before the oldest event.
BEGINNING: Final = (float("-inf"), 0)


class Removed(NamedTuple):
    """What one step has removed. `after`: where the next begins, None when nothing is left."""

    events: int
    after: tuple[float, int] | None


def remove(connection: sa.Connection, before: float, after: tuple[float, int] = BEGINNING) -> Removed:
    """Remove events recorded before `before` whose deliveries have all ended, with those: of the BATCH oldest.

    `after`: as the step before has said. What can't be removed yet is not read again and again.
    """
    page = connection.execute(
        sa.select(events.c.id, events.c.source, events.c.run_id, events.c.recorded_at, events.c.seq)
        .where(events.c.recorded_at < before, sa.tuple_(events.c.recorded_at, events.c.seq) > after)
        .order_by(events.c.recorded_at, events.c.seq)
        .limit(BATCH)
    ).all()
    under_way = sa.select(deliveries.c.event_id).where(
        _of_events(page),
        deliveries.c.state.not_in([state.value for state in ENDED]),
    )
    busy = set(connection.execute(under_way).scalars()) if page else set()
    rest = (page[-1].recorded_at, page[-1].seq) if len(page) == BATCH else None
    old = _locked(connection, [row for row in page if row.id not in busy])
    if not old:
        return Removed(0, rest)
    theirs = _of_events(old)
    connection.execute(sa.delete(attempts).where(attempts.c.delivery_id.in_(sa.select(deliveries.c.id).where(theirs))))
    connection.execute(sa.delete(deliveries).where(theirs))
    connection.execute(sa.delete(events).where(events.c.id.in_([row.id for row in old])))
    left = sa.select(sa.literal(1)).where(events.c.source == runs.c.source, events.c.run_id == runs.c.run_id).exists()
    theirs = dialect.of_runs(runs, ((row.source, row.run_id) for row in old))
    removed = sa.delete(runs).where(theirs, runs.c.updated_at < before, ~left).returning(runs.c.source, runs.c.run_id)
    words.remove(connection, [(row.source, row.run_id) for row in connection.execute(removed)])
    return Removed(len(old), rest)


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
