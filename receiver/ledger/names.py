"""Whether the ledger knows a name that a person typed, and which ones it knows. For the case that nothing was found.

Each is found by an index, but for a sink and a route: of deliveries no index begins with them, so that one which is
unknown, and not in the config, costs a scan. `source`: the only one that who asks may see; "" for all.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.expressions import each_value
from receiver.ledger.filters import begins
from receiver.ledger.lists import narrowing
from receiver.ledger.lists.paging import unsuccessful
from receiver.ledger.schema import deliveries, events, runs, submissions

# Ids of the newest runs among which a misspelt one is looked for.
_RECENT: Final = 500


def _any(connection: sa.Connection, query: sa.Select[Any]) -> bool:
    return connection.execute(query.limit(1)).first() is not None


def _of(table: sa.Table, source: str) -> sa.ColumnElement[bool]:
    return table.c.source == source if source else sa.true()


def _of_one_of(connection: sa.Connection, table: sa.Table, source: str) -> sa.ColumnElement[bool]:
    """Return the condition on the source with which an index of the table begins."""
    return table.c.source.in_([source] if source else narrowing.sources(connection, table))


def deliveries_beginning(connection: sa.Connection, beginning: str, source: str = "") -> list[str]:
    """Return the ids of up to two deliveries whose id is or begins so."""
    return _beginning(connection, deliveries, beginning, source)


def events_beginning(connection: sa.Connection, beginning: str, source: str = "") -> list[str]:
    """Return the ids of up to two events whose id is or begins so."""
    return _beginning(connection, events, beginning, source)


def _beginning(connection: sa.Connection, table: sa.Table, beginning: str, source: str) -> list[str]:
    query = sa.select(table.c.id).where(begins(table.c.id, beginning), _of(table, source))
    return list(connection.execute(query.order_by(table.c.id).limit(2)).scalars())


def has_run(connection: sa.Connection, run_id: str, source: str = "") -> bool:
    """Whether an event or a submission has this run."""

    def has(table: sa.Table) -> bool:
        of_source = _of_one_of(connection, table, source)
        return _any(connection, sa.select(sa.literal(1)).where(of_source, table.c.run_id == run_id))

    return any(has(table) for table in (runs, submissions, events))


def has_sink(connection: sa.Connection, name: str, source: str = "") -> bool:
    """Whether a delivery has this sink."""
    return _any(connection, sa.select(sa.literal(1)).where(deliveries.c.sink == name, _of(deliveries, source)))


def has_route(connection: sa.Connection, name: str, source: str = "") -> bool:
    """Whether a route of this name has made a delivery."""
    return _any(connection, sa.select(sa.literal(1)).where(deliveries.c.route == name, _of(deliveries, source)))


def has_source(connection: sa.Connection, name: str, source: str = "") -> bool:
    """Whether a run or a submission has this source."""
    tables = (runs, submissions)
    return source in ("", name) and any(
        _any(connection, sa.select(sa.literal(1)).where(table.c.source == name)) for table in tables
    )


def has_status(connection: sa.Connection, status: str) -> bool:
    """Whether a run or an event ended with this status: Skyvern makes new ones from version to version."""

    def has(table: sa.Table) -> bool:
        which = [] if status == "completed" else unsuccessful(table)  # of which there is an index
        return _any(connection, sa.select(sa.literal(1)).where(table.c.outcome == status, *which))

    return has(runs) or has(events)


def sinks(connection: sa.Connection) -> list[str]:
    """Return the sinks that deliveries have."""
    return sorted(connection.execute(sa.select(deliveries.c.sink).distinct()).scalars())


def routes(connection: sa.Connection) -> list[str]:
    """Return the routes that have made deliveries."""
    return sorted(filter(None, connection.execute(sa.select(deliveries.c.route).distinct()).scalars()))


def sources(connection: sa.Connection) -> list[str]:
    """Return the sources that runs and submissions have."""
    return sorted({source for table in (runs, submissions) for source in narrowing.sources(connection, table)})


def statuses(connection: sa.Connection) -> list[str]:
    """Return the statuses with which runs ended, but that of success."""
    return sorted(connection.execute(each_value(runs.c.outcome, *unsuccessful(runs))).scalars())


def run_beginning(connection: sa.Connection, beginning: str, source: str = "") -> str:
    """Return the id of a run that begins so, or ""."""
    of_source = _of_one_of(connection, runs, source)
    alike = sa.select(runs.c.run_id).where(of_source, *narrowing.begins_with(runs, beginning)).limit(1)
    return str(connection.execute(alike).scalar() or "")


def recent_runs(connection: sa.Connection, source: str) -> list[str]:
    """Return ids of the runs that changed last: of one source, those of it among the last of all."""
    recent = sa.select(runs.c.run_id, runs.c.source).where(runs.c.events > 0).order_by(runs.c.updated_at.desc())
    rows = connection.execute(recent.limit(_RECENT)).all()
    return [row.run_id for row in rows if source in ("", row.source)]
