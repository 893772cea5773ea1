"""What the clock repairs in the ledger: claims that ran out, waits that are over, deliveries that nobody released.

A look that finds nothing costs one indexed query for each question.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from receiver.ledger import bulk, lanes
from receiver.ledger.claiming import IN_HAND, owned_by
from receiver.ledger.delivering import release_held
from receiver.ledger.schema import attempts, deliveries
from receiver.states import Move, State, sources, target


def release_claims(connection: sa.Connection, owner: str, now: float) -> int:
    """Give back what a dead worker held, up to 500 claims: they need not run out first. Returns how many there were."""
    held = _lapse(connection, owned_by(owner), f"{owner} ended while sending", now)
    if held:
        lanes.end_probes(connection, sorted(set(held)), now)
    return len(held)


def lapse_claims(connection: sa.Connection, now: float) -> int:
    """Take back the claims that have run out. Returns how many there were."""
    return len(_lapse(connection, deliveries.c.claim_until < now, "the claim ran out while sending", now))


def _lapse(connection: sa.Connection, condition: sa.ColumnElement[bool], reason: str, now: float) -> list[str]:
    """Take back up to 500 claims; the lane of each."""
    lapsed = connection.execute(
        sa.select(
            deliveries.c.id, deliveries.c.attempts, deliveries.c.claim, deliveries.c.updated_at, deliveries.c.lane
        )
        .where(deliveries.c.state == sa.literal_column(f"'{State.SENDING}'"), condition)
        .order_by(deliveries.c.id)
        .limit(500)
        .with_for_update(skip_locked=True)
    ).all()
    if not lapsed:
        return []
    rows = [
        {
            "delivery_id": row.id,
            "number": row.attempts,
            "outcome": "lapsed",
            "reason": reason,
            "receipt": None,
            "retry_after": None,
            "started_at": row.updated_at,
            "ended_at": now,
            "worker": row.claim.rpartition("/")[0],
        }
        for row in lapsed
    ]
    bulk.insert(connection, attempts, rows, lambda insert: insert.on_conflict_do_nothing(), [attempts.c.number])
    connection.execute(
        sa.update(deliveries)
        .where(bulk.among(connection, deliveries.c.id, [row.id for row in lapsed]))
        .values(
            state=target(Move.LAPSE),
            claim="",
            claim_until=None,
            due_at=now,
            updated_at=now,
            reason=reason,
            # A delivery that kills its worker must end some day: a lapse spends one of its attempts. What was in hand
            # was hardly begun, and will be in hand no second time.
            spent=deliveries.c.spent + sa.case((deliveries.c.claim.like(f"%{IN_HAND}"), 0), else_=1),
        )
    )
    return [row.lane for row in lapsed]


def make_due(connection: sa.Connection, now: float, limit: int = 1000) -> int:
    """Queue the waiting deliveries whose time has come. Returns how many there were."""
    due = list(
        connection.execute(
            _by_time(connection, sa.column("id"), State.WAITING, sa.column("due_at") <= now)
            .order_by(sa.column("due_at"))
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).scalars()
    )
    if due:
        connection.execute(
            sa.update(deliveries)
            .where(bulk.among(connection, deliveries.c.id, due), deliveries.c.state.in_(sources(Move.DUE)))
            .values(state=target(Move.DUE), updated_at=now)
        )
    return len(due)


def anything_due(connection: sa.Connection, now: float) -> bool:
    """Whether the clock has something to write: a waiting delivery that is due, or a claim that has lapsed."""
    for state, column in ((State.WAITING, "due_at"), (State.SENDING, "claim_until")):
        query = _by_time(connection, sa.literal(1), state, sa.column(column) <= now)
        if connection.execute(query.limit(1)).first() is not None:
            return True
    return False


def _by_time(
    connection: sa.Connection, what: sa.ColumnElement[Any], state: State, condition: sa.ColumnElement[bool]
) -> sa.Select[Any]:
    """A look at the deliveries in `state` by their index over time. SQLite must be told, or it reads all that are in
    that state, of which a hundred thousand may wait for hours."""
    index = f" INDEXED BY ix_deliveries_{state}" if connection.dialect.name == "sqlite" else ""
    return sa.select(what).select_from(sa.text(f"deliveries{index}")).where(sa.text(f"state = '{state}'"), condition)


def sweep_held(connection: sa.Connection, now: float) -> list[str]:
    """Free held deliveries whose sinks have ended in two transactions that did not see each other. Returns sinks."""
    sinks: set[str] = set()
    after = ""
    while True:
        page = list(
            connection.execute(
                sa.select(deliveries.c.id)
                .where(deliveries.c.state == sa.literal_column(f"'{State.HELD}'"), deliveries.c.id > after)
                .order_by(deliveries.c.id)
                .limit(500)
            ).scalars()
        )
        if not page:
            return sorted(sinks)
        after = page[-1]
        sinks |= set(release_held(connection, deliveries.c.id.in_(page), now))
