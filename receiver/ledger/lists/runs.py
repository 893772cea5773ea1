"""The list of runs, the one that changed last first."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from receiver.ledger import bulk
from receiver.ledger.filters import Condition, Filter, of_runs
from receiver.ledger.lists import narrowing
from receiver.ledger.lists.paging import Key, Order, Page, Row, Search
from receiver.ledger.schema import deliveries, runs

ORDER = Order((runs.c.updated_at, runs.c.source, runs.c.run_id))


def list_runs(connection: sa.Connection, wanted: Filter, after: Key | None, limit: int) -> Page:
    """Return a page of the runs that events have reported, each with the count of its deliveries by state.

    All of the filter applies; of `limit` the parameter.
    """
    it = runs.c
    # Of the others nothing is known but that Skyvern is to be asked for them.
    conditions: list[Condition] = [it.events > 0, *of_runs(wanted, bounded=True)]
    changed: list[Condition] = []
    if wanted.since is not None:
        changed.append(it.updated_at >= wanted.since)
    if wanted.until is not None:
        changed.append(it.updated_at < wanted.until)
    search = Search(
        ORDER,
        list(it),
        conditions,
        walks=[changed],
        sets=[*narrowing.by_event(connection, wanted, runs), *narrowing.by_run(connection, wanted, runs)],
        wide=narrowing.by_source(wanted, runs),
    )
    found, rest = search.page(connection, after, limit)
    _add_deliveries(connection, found)
    for run in found:
        run["labels"] = json.loads(run["labels"])
    return found, rest


def _add_deliveries(connection: sa.Connection, found: Sequence[Row]) -> None:
    counts: dict[tuple[str, str], dict[str, int]] = {}
    it = deliveries.c
    for source, run_ids in bulk.by_source((run["source"], run["run_id"]) for run in found):
        of_these = sa.and_(it.source == source, bulk.among(connection, it.run_id, run_ids))
        query = sa.select(it.run_id, it.state, sa.func.count()).where(of_these).group_by(it.run_id, it.state)
        for run_id, state, count in connection.execute(query):
            counts.setdefault((source, run_id), {})[state] = count
    for run in found:
        run["deliveries"] = counts.get((run["source"], run["run_id"]), {})
