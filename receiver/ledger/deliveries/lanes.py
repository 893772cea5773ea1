"""Store the state of lanes: paused by an operator, or shut by a breaker. Decides nothing.

A lane is what one breaker guards: a sink, or one destination of a sink that has many. A lane without a row is neither
paused nor shut. Lanes are read by name, because a sink may have ten thousand of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.breaker import Lane, shut_since
from receiver.ledger.database import dialect, many_rows
from receiver.ledger.schema import lanes

# Seconds after which another worker may probe, if the first one vanished.
PROBE_LEASE = 15.0
# A literal, because the partial index needs it.
_NOT_CLOSED: Final = sa.or_(lanes.c.paused, lanes.c.breaker != sa.literal_column("'closed'"))


class WorstLane(NamedTuple):
    """The worst breaker state of a sink's lanes, and whether one is paused."""

    breaker: str
    paused: bool


_SHUT: Final = sa.select(lanes.c.lane).where(dialect.among_given(lanes.c.lane, "b_lanes"), _NOT_CLOSED)
_NAMED: Final = sa.select(lanes).where(dialect.among_given(lanes.c.lane, "b_lanes"))
_LOCKED: Final = _NAMED.order_by(lanes.c.lane).with_for_update()


def _from(row: Any) -> Lane:
    shut = (row.breaker, row.failures, row.until, row.reason)
    return Lane(row.lane, row.sink, row.paused, *shut, paused_at=row.paused_at, opened_at=row.opened_at)


def any_shut(connection: sa.Connection) -> bool:
    """Whether a lane is paused or has a breaker that is not closed."""
    return connection.execute(sa.select(sa.literal_column("1")).where(_NOT_CLOSED).limit(1)).first() is not None


def find(connection: sa.Connection, name: str) -> Lane | None:
    """Return the lane with this name, or None if it has no row. A sink's own lane has the name of the sink."""
    return by_name(connection, [name]).get(name)


def shut_among(connection: sa.Connection, names: Collection[str]) -> set[str]:
    """Return those of these lanes that are paused or shut."""
    if not names:
        return set()
    return set(connection.execute(_SHUT, {"b_lanes": sorted(names)}).scalars())


def by_name(connection: sa.Connection, names: Collection[str], *, lock: bool = False) -> dict[str, Lane]:
    """Return those of these lanes that have a row, by name. `lock`: no other transaction changes them meanwhile."""
    rows = connection.execute(_LOCKED if lock else _NAMED, {"b_lanes": sorted(names)})
    return {row.lane: _from(row) for row in rows}


def not_closed(connection: sa.Connection, limit: int = 1000, sink: str = "") -> list[Lane]:
    """Return up to `limit` lanes that are paused, or whose breaker is open or probing; the sinks' own first.

    `sink`: only lanes of this sink."""
    found = sa.select(lanes).where(_NOT_CLOSED).order_by(lanes.c.lane != lanes.c.sink, lanes.c.lane).limit(limit)
    found = found.where(lanes.c.sink == sink) if sink else found
    return [_from(row) for row in connection.execute(found)]


def worst_lanes(connection: sa.Connection) -> dict[str, WorstLane]:
    """Return the worst state of lanes by sink, for sinks with a paused or shut lane."""
    worst = sa.func.max(sa.case((lanes.c.breaker == "open", 2), (lanes.c.breaker == "probing", 1), else_=0))
    paused = sa.func.max(sa.case((lanes.c.paused, 1), else_=0))
    rows = connection.execute(sa.select(lanes.c.sink, worst, paused).where(_NOT_CLOSED).group_by(lanes.c.sink))
    return {row[0]: WorstLane(("closed", "probing", "open")[row[1]], bool(row[2])) for row in rows}


def begin_probe(connection: sa.Connection, lane: str, now: float) -> Lane | None:
    """Reserve the probe of a shut lane. Returns the lane as it was; None if another worker was faster."""
    row = connection.execute(
        sa.select(lanes)
        .where(lanes.c.lane == lane, lanes.c.breaker != "closed", lanes.c.until <= now)
        .with_for_update(skip_locked=True)
    ).first()
    if row is None:
        return None
    before = _from(row)
    changes = {"breaker": "probing", "until": now + PROBE_LEASE, "opened_at": shut_since(before, now)}
    connection.execute(sa.update(lanes).where(lanes.c.lane == lane).values(**changes, updated_at=now))
    return before


def end_probe(connection: sa.Connection, lane: Lane, now: float) -> None:
    """Undo `begin_probe` if no delivery was due, so that the next delivery need not wait for the lease."""
    before = {"breaker": lane.breaker, "until": lane.until, "opened_at": lane.opened_at}
    connection.execute(sa.update(lanes).where(lanes.c.lane == lane.lane).values(**before, updated_at=now))


def end_probes(connection: sa.Connection, names: Collection[str], now: float) -> None:
    """Let another worker probe these lanes at once, because the previous one died. An extra probe is harmless."""
    connection.execute(
        sa.update(lanes)
        .where(dialect.among(lanes.c.lane, sorted(names)), lanes.c.breaker == "probing", lanes.c.until > now)
        .values(until=now, updated_at=now)
    )


def probe_at_once(connection: sa.Connection, names: Collection[str], now: float) -> None:
    """Let workers probe the open breakers of these lanes at once, at the request of an operator."""
    connection.execute(
        sa.update(lanes)
        .where(lanes.c.lane.in_(sorted(names)), lanes.c.breaker == "open", lanes.c.until > now)
        .values(until=now)
    )


def put(connection: sa.Connection, lane: Lane, now: float) -> None:
    """Write the breaker's state. Does not pause or resume the lane."""
    values = {"breaker": lane.breaker, "failures": lane.failures, "until": lane.until, "reason": lane.reason}
    _put(connection, lane.lane, lane.sink, **values, opened_at=lane.opened_at, updated_at=now)


def set_paused(connection: sa.Connection, sink: str, paused: bool, now: float) -> None:
    """Pause or resume all deliveries to `sink`.

    A paused sink is not probed, so its state is unknown: an open breaker counts as opened now.
    """
    _put(connection, sink, sink, paused=paused, paused_at=now if paused else 0.0, updated_at=now)
    opened = sa.update(lanes).where(lanes.c.sink == sink, lanes.c.opened_at > 0)
    connection.execute(opened.values(opened_at=now))


def _put(connection: sa.Connection, lane: str, sink: str, **values: Any) -> None:
    many_rows.put(connection, lanes, {"lane": lane, "sink": sink, **values}, changes=values)
