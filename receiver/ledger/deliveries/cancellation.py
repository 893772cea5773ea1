"""Deliveries that an operator cancels, and brings back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, state_after, states_before
from receiver.ledger.deliveries import links
from receiver.ledger.schema import deliveries

# How the reasons begin of what an operator cancelled by id, and of what a filter found: that comes back together.
ALONE: Final = "cancelled by an operator"
TOGETHER: Final = "cancelled by an operator, with"


def cancel(connection: sa.Connection, ids: Sequence[str], reason: str, now: float) -> list[str]:
    """Cancel these deliveries, but for those that are being sent or have ended. Returns the ids of those that were."""
    changed = (
        sa.update(deliveries)
        .where(deliveries.c.id.in_(ids), deliveries.c.state.in_(states_before(DeliveryMove.CANCEL)))
        .values(state=state_after(DeliveryMove.CANCEL), reason=reason, updated_at=now)
        .returning(deliveries.c.id, deliveries.c.event_id)
    )
    rows = connection.execute(changed).all()
    if rows:
        links.release_held(connection, deliveries.c.event_id.in_({row.event_id for row in rows}), now)
    return [row.id for row in rows]


def restore(connection: sa.Connection, ids: Sequence[str], now: float) -> list[str]:
    """Bring back those of these deliveries that are cancelled: due now, no attempt spent, or held where what they
    waited for has not ended. Returns their ids.
    """
    before = states_before(DeliveryMove.RESTORE)
    cancelled = sa.select(deliveries.c.id).where(deliveries.c.id.in_(ids), deliveries.c.state.in_(before))
    found = sorted(connection.execute(cancelled).scalars())
    if not found:
        return []
    fresh: dict[str, Any] = {"spent": 0, "tried_at": None, "reason": "", "due_at": now, "updated_at": now}
    restored = sa.update(deliveries).where(deliveries.c.id.in_(found), deliveries.c.state.in_(before))
    connection.execute(restored.values(state=state_after(DeliveryMove.RESTORE), **fresh))
    links.release_held(connection, deliveries.c.id.in_(found), now)
    return found
