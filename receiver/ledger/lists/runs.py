"""The list of runs, the one that changed last first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.run import RunKey
from receiver.ledger.database import dialect
from receiver.ledger.lists.filters import Condition, Filter, of_runs, text_query
from receiver.ledger.lists.paging import SCAN, Key, KeysetList, Page, Row, page_of, walk_of
from receiver.ledger.lists.words import Match, find
from receiver.ledger.schema import deliveries, runs

LISTING: Final = KeysetList(tuple(runs.c), (runs.c.updated_at, runs.c.run_id, runs.c.source))
# Of the others nothing is known but that Skyvern is to be asked for them.
_REPORTED: Final = runs.c.events > 0
# Runs with the words that are looked at together.
_AT_ONCE: Final = 200
# Runs in a row that changed too early, after which no later one is looked for; and seconds by which the order of
# changes may differ from that of their times.
_MANY, _LATE = 50, 120.0


def key_kinds(filters: Filter) -> tuple[type[Any], ...]:
    """Return of what the places of the list are made that this filter gives."""
    return (int,) if filters.text else (float, str, str)


def list_runs(connection: sa.Connection, filters: Filter, after: Key | None, limit: int, scan: int = SCAN) -> Page:
    """Return a page of the runs that events have reported, each with the count of its deliveries by state.

    All of the filter applies; of `limit` the parameter. Raises Invalid.
    """
    found, rest = (_with_words if filters.text else page)(connection, filters, after, limit, scan)
    _add_deliveries(connection, found)
    for run in found:
        run["labels"] = json.loads(run["labels"])
    return found, rest


def _with_words(connection: sa.Connection, filters: Filter, after: Key | None, limit: int, scan: int) -> Page:
    """Return a page of runs that say the words, by the index of words. Its numbers are the places of the list."""
    query, conditions = text_query(filters.text), _conditions(replace(filters, text=""))
    rows: list[Row] = []
    before, looked_at = None if after is None else after[0], 0
    while looked_at < scan:
        wanted_now = _AT_ONCE if len(conditions) > 1 else limit - len(rows)
        found = find(connection, query, wanted_now, before)
        there = _rows(connection, [match.key for match in found.matches], conditions)
        for match in found.matches:
            if (row := there.get(match.key)) is not None:
                rows.append(row)
                if len(rows) == limit:
                    return rows, (match.seq,)
        if found.next is None or _all_before(filters.since, found.matches):
            return rows, None
        before = found.next
        if len(found.matches) < wanted_now:  # the search has come to its own limit
            break
        looked_at += len(found.matches)
    return rows, (before,)


def _all_before(since: float | None, matches: Sequence[Match]) -> bool:
    """Whether enough runs changed before `since` to conclude that all following ones did."""
    if since is None or len(matches) < _MANY:
        return False
    return all(match.changed_at < since - _LATE for match in matches)


def _rows(connection: sa.Connection, keys: Sequence[RunKey], conditions: Sequence[Condition]) -> dict[RunKey, Row]:
    query = sa.select(*runs.c).where(dialect.of_runs(runs, keys), dialect.row_by_row(*conditions))
    return {(row.source, row.run_id): dict(row._mapping) for row in connection.execute(query)}


def page(connection: sa.Connection, filters: Filter, after: Key | None, limit: int, scan: int = SCAN) -> Page:
    """Return a page of the rows of runs by when they changed, also with words."""
    walk = walk_of(runs, filters, _conditions)
    return page_of(connection, LISTING, filters, _conditions(filters), walk, after, limit, scan)


def _conditions(filters: Filter) -> list[Condition]:
    return [_REPORTED, *of_runs(filters)]


def _add_deliveries(connection: sa.Connection, found: Sequence[Row]) -> None:
    counts: dict[tuple[str, str], dict[str, int]] = {}
    it = deliveries.c
    of_these = dialect.of_runs(deliveries, ((run["source"], run["run_id"]) for run in found))
    query = sa.select(it.source, it.run_id, it.state, sa.func.count()).where(of_these)
    for source, run_id, state, count in connection.execute(query.group_by(it.source, it.run_id, it.state)):
        counts.setdefault((source, run_id), {})[state] = count
    for run in found:
        run["deliveries"] = counts.get((run["source"], run["run_id"]), {})
