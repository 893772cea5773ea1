"""Whether the ledger knows an id or a name that a person typed. Each is found by an index.

`source`: the only one that the caller may see; "" for all.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from receiver.ledger.lists.filters import begins, unsuccessful
from receiver.ledger.lists.paging import begins_with
from receiver.ledger.schema import deliveries, events, in_state, runs, submissions


def _any(connection: sa.Connection, table: sa.FromClause, source: str, *conditions: sa.ColumnElement[bool]) -> bool:
    query = sa.select(sa.literal(1)).select_from(table).where(*conditions, *_of(table, source))
    return connection.execute(query.limit(1)).first() is not None


def _of(table: sa.FromClause, source: str) -> list[sa.ColumnElement[bool]]:
    return [table.c.source == source] if source else []


def ids_beginning(connection: sa.Connection, kind: str, beginning: str, source: str) -> list[str]:
    """Return the ids of up to two rows whose id begins with `beginning`. `kind`: delivery or event."""
    table = {"delivery": deliveries, "event": events}[kind]
    query = sa.select(table.c.id).where(begins(table.c.id, beginning), *_of(table, source))
    return list(connection.execute(query.order_by(table.c.id).limit(2)).scalars())


def has_run(connection: sa.Connection, run_id: str, source: str = "") -> bool:
    """Whether an event or a submission has this run."""
    return any(_any(connection, each, source, each.c.run_id == run_id) for each in (runs, submissions, events))


def has_sink(connection: sa.Connection, name: str) -> bool:
    """Whether the sink has a pending or dead delivery."""
    its = (in_state(state) for state in ("queued", "held", "waiting", "dead"))
    return any(_any(connection, deliveries, "", deliveries.c.sink == name, each) for each in its)


def has_status(connection: sa.Connection, status: str) -> bool:
    """Whether a run or an event has this status of failure: new versions of Skyvern have new ones."""
    return any(_any(connection, each, "", each.c.outcome == status, *unsuccessful(each)) for each in (runs, events))


def run_beginning(connection: sa.Connection, beginning: str, source: str = "") -> str:
    """Return the id of a run that begins with `beginning`, or ""."""
    query: Any = sa.select(runs.c.run_id).where(begins_with(runs, beginning), *_of(runs, source))
    return str(connection.execute(query.order_by(runs.c.run_id).limit(1)).scalar() or "")
