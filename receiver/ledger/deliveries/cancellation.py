"""Deliveries that an operator cancels, and brings back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, state_after, states_before
from receiver.ledger.deliveries import links
from receiver.ledger.filters import begins
from receiver.ledger.schema import deliveries

# Deliveries that one transaction changes at the most, so that nobody waits long for the ledger.
PAGE = 500

# Reasons, as lists show them. By the second one, what was cancelled together is brought back together; what an
# operation has cancelled, by its id in the reason.
ONE: Final = "cancelled by an operator"
WITH_ITS_SINK: Final = "cancelled by an operator, with all that waited for its sink"


def cancel(connection: sa.Connection, ids: Sequence[str], now: float) -> list[str]:
    """Cancel deliveries, named by the beginnings of their ids, that are not being sent and have not ended.

    Returns the ids of those that were.
    """
    named = sa.or_(*(begins(deliveries.c.id, each) for each in ids))
    return list(_cancel(connection, named, ONE, now))


def cancel_all(connection: sa.Connection, sink: str, before: float, now: float) -> int:
    """Cancel up to PAGE deliveries of `sink` that wait and were made before `before`. Returns how many there were."""
    waiting = (
        sa.select(deliveries.c.id)
        .where(deliveries.c.sink == sink, deliveries.c.state.in_(states_before(DeliveryMove.CANCEL)))
        .where(deliveries.c.created_at < before)
        .limit(PAGE)  # in no order: by id, each page would read past all that the ones before it have cancelled
    )
    ids = sorted(connection.execute(waiting).scalars())
    return len(_cancel(connection, deliveries.c.id.in_(ids), WITH_ITS_SINK, now)) if ids else 0


def cancel_in(connection: sa.Connection, ids: Sequence[str], operation_id: str, now: float) -> Sequence[str]:
    """Cancel these deliveries for an operation. Returns the ids of those that were."""
    return _cancel(connection, deliveries.c.id.in_(ids), f"{ONE}, with {operation_id}", now)


def restore_in(connection: sa.Connection, ids: Sequence[str], now: float) -> list[str]:
    """Bring back these deliveries, PAGE of them at the most. Returns the ids of those that were."""
    return _restore(connection, deliveries.c.id.in_(ids), now)


def _cancel(connection: sa.Connection, condition: sa.ColumnElement[bool], reason: str, now: float) -> Sequence[str]:
    changed = (
        sa.update(deliveries)
        .where(condition, deliveries.c.state.in_(states_before(DeliveryMove.CANCEL)))
        .values(state=state_after(DeliveryMove.CANCEL), reason=reason, updated_at=now)
        .returning(deliveries.c.id, deliveries.c.event_id)
    )
    rows = connection.execute(changed).all()
    if rows:
        links.release_held(connection, deliveries.c.event_id.in_({row.event_id for row in rows}), now)
    return [row.id for row in rows]


def restore(connection: sa.Connection, ids: Sequence[str], now: float) -> list[str]:
    """Bring back cancelled deliveries, named by the beginnings of their ids. Returns the ids of those that were."""
    return _restore(connection, sa.or_(*(begins(deliveries.c.id, each) for each in ids)), now)


def restore_all(connection: sa.Connection, sink: str, now: float) -> int:
    """Bring back up to PAGE of what `cancel_all` cancelled of `sink`. Returns how many there were."""
    return len(_restore(connection, sa.and_(deliveries.c.sink == sink, deliveries.c.reason == WITH_ITS_SINK), now))


def _restore(connection: sa.Connection, condition: sa.ColumnElement[bool], now: float) -> list[str]:
    """Bring back cancelled deliveries: due now, no attempt spent, or held where what they waited for has not ended."""
    before = states_before(DeliveryMove.RESTORE)
    cancelled = sa.select(deliveries.c.id).where(deliveries.c.state.in_(before), condition)
    ids = sorted(connection.execute(cancelled.limit(PAGE)).scalars())
    if not ids:
        return []
    fresh: dict[str, Any] = {"spent": 0, "tried_at": None, "reason": "", "due_at": now, "updated_at": now}
    restored = sa.update(deliveries).where(deliveries.c.id.in_(ids), deliveries.c.state.in_(before))
    connection.execute(restored.values(state=state_after(DeliveryMove.RESTORE), **fresh))
    links.release_held(connection, deliveries.c.id.in_(ids), now)
    return ids
