"""How far walks of Skyvern's list of runs have come, and the runs that they saw under way.

A walk is leased: of several clocks one makes it, and the lease of a clock that was killed runs out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from receiver.ledger.database import dialect, many_rows
from receiver.ledger.schema import active_runs, watches

# Seconds for which a walk is leased; it renews that with every page.
WALK_LEASE = 60.0


@dataclass(frozen=True, slots=True)
class Watch:
    """The walks of one source. `watermark`: by Skyvern's clock; None before the first walk."""

    source: str
    watermark: float | None
    due_at: float
    walked_at: float | None
    gap_at: float | None
    trouble: str


class ActiveRun(NamedTuple):
    """A run that was under way when its list was read. `created_at`: by Skyvern's clock; `first_seen_at`: by ours."""

    run_id: str
    status: str
    created_at: float | None
    first_seen_at: float


def list_watches(connection: sa.Connection) -> list[Watch]:
    """Return the walks of all sources that were ever walked."""
    return [Watch(*row) for row in connection.execute(sa.select(watches).order_by(watches.c.source))]


def lease(connection: sa.Connection, source: str, now: float) -> Watch | None:
    """Lease the next walk of a source, and return it; None when it is not due.

    A walk that an earlier try of this transaction, with the same `now`, has leased is due."""
    connection.execute(many_rows.insert_statement(connection, watches).values(source=source).on_conflict_do_nothing())
    due = sa.or_(watches.c.due_at <= now, watches.c.due_at == now + WALK_LEASE)
    row = connection.execute(
        sa.select(watches).where(watches.c.source == source, due).with_for_update(skip_locked=True)
    ).first()
    if row is None:
        return None
    renew(connection, source, now)
    return Watch(*row)


def renew(connection: sa.Connection, source: str, now: float) -> None:
    """Renew the lease of a running walk."""
    _change(connection, source, due_at=now + WALK_LEASE)


def _change(connection: sa.Connection, source: str, **values: Any) -> None:
    connection.execute(sa.update(watches).where(watches.c.source == source).values(**values))


def finish(connection: sa.Connection, source: str, watermark: float | None, due_at: float, now: float) -> None:
    """Record a walk that was complete, and when the next is due. The watermark never goes back."""
    there = watches.c.watermark
    moved = there if watermark is None else sa.case((there > watermark, there), else_=watermark)
    _change(connection, source, watermark=moved, due_at=due_at, walked_at=now, trouble="")


def record_gap(connection: sa.Connection, source: str, now: float) -> None:
    """Record that the list of Skyvern ended before the watermark was reached."""
    _change(connection, source, gap_at=now)


def break_off(connection: sa.Connection, source: str, due_at: float, trouble: str) -> None:
    """Record a walk that was not complete: the next begins where this one did."""
    _change(connection, source, due_at=due_at, trouble=trouble)


def remember(connection: sa.Connection, source: str, seen: Sequence[ActiveRun], now: float) -> None:
    """Remember runs that are under way."""
    last = {each.run_id: each._asdict() for each in seen}
    rows = [{"source": source, "seen_at": now, **each} for _, each in sorted(last.items())]
    many_rows.insert_many(connection, active_runs, rows, _see_again)


def _see_again(insert: Any) -> Any:
    return many_rows.or_update(insert, {name: insert.excluded[name] for name in ("status", "seen_at")})


def forget(connection: sa.Connection, source: str, run_ids: Collection[str]) -> None:
    """Forget runs that have ended."""
    if run_ids:
        connection.execute(
            sa.delete(active_runs).where(dialect.of_runs(active_runs, ((source, each) for each in run_ids)))
        )


def not_seen_since(connection: sa.Connection, source: str, moment: float) -> list[ActiveRun]:
    """Return the runs that were under way once, and that no list has shown since `moment`."""
    return _active(connection, source, active_runs.c.seen_at < moment)


def active(connection: sa.Connection, source: str, run_ids: Iterable[str]) -> list[ActiveRun]:
    """Return those of the runs that were under way."""
    return _active(connection, source, dialect.among(active_runs.c.run_id, sorted(run_ids)))


def _active(connection: sa.Connection, source: str, which: sa.ColumnElement[bool]) -> list[ActiveRun]:
    query = sa.select(*(active_runs.c[name] for name in ActiveRun._fields)).where(active_runs.c.source == source, which)
    return [ActiveRun(*row) for row in connection.execute(query.order_by(active_runs.c.run_id))]
