"""Whether the ledger knows an id or a name that a person typed, for the case that nothing was found.

Each is found by an index, or among the rows that changed last. `source`: the only one that the caller may see; "" for
all.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.filters import begins, unsuccessful
from receiver.ledger.lists.narrowing import begins_with
from receiver.ledger.lists.paging import SCAN
from receiver.ledger.schema import deliveries, events, runs, submissions

# Ids of the newest runs among which a misspelt one is looked for.
_RECENT: Final = 500


def _any(connection: sa.Connection, table: sa.FromClause, source: str, *conditions: sa.ColumnElement[bool]) -> bool:
    query = sa.select(sa.literal(1)).select_from(table).where(*conditions, *_of(table, source))
    return connection.execute(query.limit(1)).first() is not None


def _of(table: sa.FromClause, source: str) -> list[sa.ColumnElement[bool]]:
    return [table.c.source == source] if source else []


def deliveries_beginning(connection: sa.Connection, beginning: str, source: str = "") -> list[str]:
    """Return the ids of up to two deliveries whose id is or begins so."""
    return _beginning(connection, deliveries, beginning, source)


def events_beginning(connection: sa.Connection, beginning: str, source: str = "") -> list[str]:
    """Return the ids of up to two events whose id is or begins so."""
    return _beginning(connection, events, beginning, source)


def _beginning(connection: sa.Connection, table: sa.Table, beginning: str, source: str) -> list[str]:
    query = sa.select(table.c.id).where(begins(table.c.id, beginning), *_of(table, source))
    return list(connection.execute(query.order_by(table.c.id).limit(2)).scalars())


def has_run(connection: sa.Connection, run_id: str, source: str = "") -> bool:
    """Whether an event or a submission has this run."""
    return any(_any(connection, each, source, each.c.run_id == run_id) for each in (runs, submissions, events))


def has_source(connection: sa.Connection, name: str, source: str = "") -> bool:
    """Whether a run has this source."""
    return source in ("", name) and _any(connection, runs, name)


def has_sink(connection: sa.Connection, name: str, source: str = "") -> bool:
    """Whether a delivery has this sink: one that has not ended, or is dead, or is one of those that changed last."""
    it = deliveries.c
    by_index = (it.state == sa.literal_column(f"'{state}'") for state in ("queued", "held", "waiting", "dead"))
    stopped = any(_any(connection, deliveries, source, it.sink == name, each) for each in by_index)
    return stopped or _has_lately(connection, "sink", name, source)


def has_route(connection: sa.Connection, name: str, source: str = "") -> bool:
    """Whether a route of this name has made one of the deliveries that changed last."""
    return _has_lately(connection, "route", name, source)


def _has_lately(connection: sa.Connection, column: str, name: str, source: str) -> bool:
    it = deliveries.c
    last = sa.select(it[column], it.source).order_by(it.updated_at.desc(), it.id.desc()).limit(SCAN).subquery()
    return _any(connection, last, source, last.c[column] == name)


def has_status(connection: sa.Connection, status: str) -> bool:
    """Whether a run or an event ended with this status, but with success: Skyvern makes new ones from version to
    version."""
    return any(_any(connection, each, "", each.c.outcome == status, *unsuccessful(each)) for each in (runs, events))


def run_beginning(connection: sa.Connection, beginning: str, source: str = "") -> str:
    """Return the id of a run that begins so, or ""."""
    query: Any = sa.select(runs.c.run_id).where(begins_with(runs, beginning), *_of(runs, source))
    return str(connection.execute(query.order_by(runs.c.run_id).limit(1)).scalar() or "")


def recent_runs(connection: sa.Connection, source: str) -> list[str]:
    """Return ids of the runs that changed last: of one source, those of it among the last of all."""
    recent = sa.select(runs.c.run_id, runs.c.source).where(runs.c.events > 0).order_by(runs.c.updated_at.desc())
    rows = connection.execute(recent.limit(_RECENT)).all()
    return [row.run_id for row in rows if source in ("", row.source)]
