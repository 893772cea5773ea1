"""Which index serves a filter: small sets of a run, an event or rare words; all else along the list's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import sqlalchemy as sa

from receiver.ledger.dialect import among
from receiver.ledger.filters import Condition, Filter, begins, text_query, unsuccessful
from receiver.ledger.lists.paging import Key, KeysetList, Page, Walk
from receiver.ledger.schema import deliveries, events, runs
from receiver.ledger.words import find_all

# Runs with the words, or events whose ids begin so, that are looked up one by one.
FEW: Final = 200
# What sorts behind all that begins alike, by bytes.
_LAST: Final = "\U0010ffff"


def page(
    connection: sa.Connection,
    listing: KeysetList,
    wanted: Filter,
    conditions: list[Condition],
    along: Walk,
    after: Key | None,
    limit: int,
) -> Page:
    """Return a page of a list: of a small set where the filter names one, or along the list's order.

    `conditions`: all that is wanted. `along`: the walk, see `KeysetList.page`.
    """
    if wanted.impossible:
        return [], None
    for which in _sets(connection, listing.key[0].table, wanted):
        if (found := listing.page_of_set(connection, which, conditions, after, limit)) is not None:
            return found
    return listing.page(connection, along, after, limit)


def walk(table: sa.Table, wanted: Filter, conditions: Callable[[Filter], list[Condition]]) -> Walk:
    """Return the walk of runs or events by the index that serves most of the filter. `conditions`: what the rest of
    the filter means for a row."""
    it, rest = table.c, replace(wanted, since=None, until=None)
    paths: list[list[Condition]] = [[]]
    if wanted.workflow and table is runs:
        paths, rest = [[it.workflow_id == wanted.workflow]], replace(rest, workflow="")
    elif wanted.status and not {"completed", ""} & set(wanted.status):
        paths = [[it.outcome == each, *unsuccessful(table)] for each in sorted(set(wanted.status))]
        rest = replace(rest, status=())
    elif wanted.source:
        paths, rest = [[it.source == wanted.source]], replace(rest, source="")
    return Walk(paths, conditions(rest), wanted.since, wanted.until)


def begins_with(table: sa.FromClause, beginning: str) -> Condition:
    """Return the condition that a run's id begins so, for an index: it sorts bytewise, so they stand together."""
    return sa.and_(table.c.run_id >= beginning, table.c.run_id < beginning + _LAST)


def _sets(connection: sa.Connection, table: sa.FromClause, wanted: Filter) -> Iterator[Condition]:
    """Yield what may be a small set of `table`: each an index of it serves, and all that is wanted is in it."""
    if wanted.event_id and table is events:
        yield begins(events.c.id, wanted.event_id)
    elif wanted.event_id and "event_id" in table.c:
        named = sa.select(events.c.id, events.c.run_id).where(begins(events.c.id, wanted.event_id))
        found = connection.execute(named.limit(FEW + 1)).all()
        if len(found) == 1 and table is deliveries:
            yield sa.and_(table.c.run_id == found[0].run_id, table.c.event_id == found[0].id)
        elif len(found) <= FEW:  # else the id is cut very short
            yield among(table.c.run_id, sorted({each.run_id for each in found}))
    if wanted.run_id:
        yield table.c.run_id == wanted.run_id
    if wanted.run_prefix:
        yield begins_with(table, wanted.run_prefix)
    if wanted.text and (keys := find_all(connection, text_query(wanted.text), FEW)) is not None:
        yield among(table.c.run_id, sorted({run_id for _, run_id in keys}))
