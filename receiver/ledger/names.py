"""Whether the ledger knows a name that a person typed, and which ones it knows. For the case that nothing was found:
an unknown name costs a scan, a known one an index or a row."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.filters import begins
from receiver.ledger.schema import deliveries, events, runs, submissions

# Ids of the newest runs among which a misspelt one is looked for.
_RECENT: Final = 500


def _any(connection: sa.Connection, query: sa.Select[Any]) -> bool:
    return connection.execute(query.limit(1)).first() is not None


def _distinct(connection: sa.Connection, *columns: sa.Column[Any]) -> list[str]:
    found = {row[0] for column in columns for row in connection.execute(sa.select(column).distinct())}
    return sorted(each for each in found if each)


def has_delivery(connection: sa.Connection, beginning: str) -> bool:
    """Whether a delivery has this id, or one that begins so."""
    return _any(connection, sa.select(sa.literal(1)).where(begins(deliveries.c.id, beginning)))


def has_event(connection: sa.Connection, beginning: str) -> bool:
    """Whether an event has this id, or one that begins so."""
    return _any(connection, sa.select(sa.literal(1)).where(begins(events.c.id, beginning)))


def has_run(connection: sa.Connection, run_id: str) -> bool:
    """Whether an event or a submission has this run."""
    tables = (runs, submissions, events)
    return any(_any(connection, sa.select(sa.literal(1)).where(table.c.run_id == run_id)) for table in tables)


def has_sink(connection: sa.Connection, name: str) -> bool:
    """Whether a delivery has this sink."""
    return _any(connection, sa.select(sa.literal(1)).where(deliveries.c.sink == name))


def has_source(connection: sa.Connection, name: str) -> bool:
    """Whether a run or a submission has this source."""
    tables = (runs, submissions)
    return any(_any(connection, sa.select(sa.literal(1)).where(table.c.source == name)) for table in tables)


def has_status(connection: sa.Connection, status: str) -> bool:
    """Whether a run or an event ended with this status: Skyvern makes new ones from version to version."""
    tables = (runs, events)
    return any(_any(connection, sa.select(sa.literal(1)).where(table.c.outcome == status)) for table in tables)


def sinks(connection: sa.Connection) -> list[str]:
    """Return the sinks that deliveries have."""
    return _distinct(connection, deliveries.c.sink)


def sources(connection: sa.Connection) -> list[str]:
    """Return the sources that runs and submissions have."""
    return _distinct(connection, runs.c.source, submissions.c.source)


def statuses(connection: sa.Connection) -> list[str]:
    """Return the statuses with which runs ended."""
    return _distinct(connection, runs.c.outcome)


def run_beginning(connection: sa.Connection, beginning: str) -> str:
    """Return the id of a run that begins so, or ""."""
    alike = sa.select(runs.c.run_id).where(runs.c.run_id.startswith(beginning, autoescape=True)).limit(1)
    return str(connection.execute(alike).scalar() or "")


def recent_runs(connection: sa.Connection) -> list[str]:
    """Return ids of the runs that changed last."""
    return list(
        connection.execute(sa.select(runs.c.run_id).order_by(runs.c.updated_at.desc()).limit(_RECENT)).scalars()
    )
