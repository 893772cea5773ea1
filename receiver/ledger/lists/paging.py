"""How a page of a list is found without reading much more than it shows.

A list has an order (its key: unique, the newest first). Each filter has a walk: conditions that an index serves which
ends with that order, so that the next rows of the walk are a closed range of it. All other conditions are checked row
by row, of at most SCAN rows a page: a page may then be short, and the next continues where this one ended. The few
rows of a run or an event are read as a whole and sorted. Why: docs/decisions/0013-bounded-lists.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.database.dialect import among, row_by_row, use_indexes
from receiver.ledger.lists.filters import Condition, Filter, begins, text_query, unsuccessful
from receiver.ledger.lists.words import find_all
from receiver.ledger.schema import deliveries, events, runs

# A place in a list: the values of its key. They sort as the list does, backwards.
Key = tuple[Any, ...]
Row = dict[str, Any]
Page = tuple[list[Row], Key | None]

# Maximum rows that one page looks at, and rows of a set that is read as a whole. A quarter where rows are large.
SCAN: Final = 1000
# Maximum runs with the words, or events with an ambiguous id, that are looked up one by one.
FEW: Final = 200
# Sorts after each text with the same beginning, by bytes.
_LAST: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Walk:
    """Which rows a page is looked for among.

    `paths`: conditions, each of which an index serves that ends with the list's order; a wanted row meets exactly one.
    `conditions`: what a row must meet besides. `since`, `until`: where along the order it can be, by the first column.
    """

    paths: Sequence[Sequence[Condition]] = ((),)
    conditions: Sequence[Condition] = ()
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class KeysetList:
    """A list: its columns, and its order by those of its `key`, each descending, or all `ascending`.

    `large`: its rows may be, for they have bodies.
    """

    columns: Sequence[sa.ColumnElement[Any]]
    key: Sequence[sa.Column[Any]]
    ascending: bool = False
    large: bool = False

    def page(self, connection: sa.Connection, walk: Walk, after: Key | None, limit: int, scan: int = SCAN) -> Page:
        """Return up to `limit` rows after this place, and the place to continue from; None at the end.

        `scan`: maximum rows to look at.
        """
        use_indexes(connection)
        share = max(1, scan // (4 if self.large else 1) // max(1, len(walk.paths)))
        rows: dict[Key, tuple[Key, Row]] = {}
        ends: list[Key] = []
        for path in walk.paths:
            found, end = self._along(connection, walk, path, after, limit, share)
            ends += [] if end is None else [end]
            for key, row in found:
                # A row that goes from one path to another between their statements is met twice: the newest counts.
                if key[1:] not in rows or self._is_before(key, rows[key[1:]][0]):
                    rows[key[1:]] = key, row
        # Up to the nearest of these places all paths have been looked through.
        end = (min if self.ascending else max)(ends, default=None)
        merged = sorted(rows.values(), key=lambda each: each[0], reverse=not self.ascending)
        if end is not None:
            merged = [each for each in merged if not self._is_before(end, each[0])]
        if len(merged) > limit:
            merged = merged[:limit]
            end = merged[-1][0]
        return [row for _, row in merged], end

    def page_of_set(
        self,
        connection: sa.Connection,
        which: Condition,
        rest: Sequence[Condition],
        after: Key | None,
        limit: int,
        scan: int,
    ) -> Page | None:
        """Return the same of the rows that meet `which`, by an index in another order; None if more than `scan` do.

        `rest`: what they must meet besides.
        """
        use_indexes(connection)
        if count_up_to(connection, self.key[0].table, which, scan + 1) > scan:
            return None
        some = sa.select(*self._all).where(which, row_by_row(*rest)).cte("some").prefix_with("MATERIALIZED")
        key = [some.c[each.key] for each in self.key]
        query = sa.select(some).order_by(*self._ordered(key)).limit(limit + 1)
        found = self._read(connection, query if after is None else query.where(self._behind(key, after)))
        return [row for _, row in found[:limit]], found[limit - 1][0] if len(found) > limit else None

    def _along(
        self, connection: sa.Connection, walk: Walk, path: Sequence[Condition], after: Key | None, limit: int, scan: int
    ) -> tuple[list[tuple[Key, Row]], Key | None]:
        """Return up to limit + 1 rows of a path, and the place up to which it was looked through; None at its end."""
        key, first = self.key, self.key[0]
        its = list(path)
        if after is not None:
            its.append(self._behind(key, after))
        elif walk.until is not None:
            its.append(first < walk.until)
        bottom = [] if walk.since is None else [first >= walk.since]
        end: Key | None = None
        if walk.conditions:
            places = sa.select(*key).where(*its, *bottom).order_by(*self._ordered(key))
            if (place := connection.execute(places.limit(1).offset(scan - 1)).first()) is not None:
                end = tuple(place)
                bottom = [self._down_to(key, end)]
        query = sa.select(*self._all).where(*its, *bottom, row_by_row(*walk.conditions))
        found = self._read(connection, query.order_by(*self._ordered(key)).limit(limit + 1))
        return found, found[-1][0] if len(found) > limit else end

    @property
    def _all(self) -> list[sa.ColumnElement[Any]]:
        names = {each.key for each in self.columns}
        return [*self.columns, *(each for each in self.key if each.key not in names)]

    def _read(self, connection: sa.Connection, query: sa.Select[Any]) -> list[tuple[Key, Row]]:
        """Return rows with their places."""
        names = [str(each.key) for each in self.columns]
        rows = (row._mapping for row in connection.execute(query))
        return [(tuple(row[each.key] for each in self.key), {name: row[name] for name in names}) for row in rows]

    def _is_before(self, key: Key, other: Key) -> bool:
        return key < other if self.ascending else key > other

    def _ordered(self, key: Sequence[sa.ColumnElement[Any]]) -> list[sa.ColumnElement[Any]]:
        return [each.asc() if self.ascending else each.desc() for each in key]

    def _behind(self, key: Sequence[sa.ColumnElement[Any]], place: Key) -> Condition:
        here, there = _places(key, place)
        return here > there if self.ascending else here < there

    def _down_to(self, key: Sequence[sa.ColumnElement[Any]], place: Key) -> Condition:
        here, there = _places(key, place)
        return here <= there if self.ascending else here >= there


def _places(key: Sequence[sa.ColumnElement[Any]], place: Key) -> tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]:
    values = (sa.literal(value, each.type) for each, value in zip(key, place, strict=True))
    return sa.tuple_(*key), sa.tuple_(*values)


def count_up_to(connection: sa.Connection, table: sa.FromClause, condition: Condition, limit: int) -> int:
    """Return how many rows of `table` meet `condition`, but not more than `limit`."""
    some = sa.select(sa.literal_column("1")).select_from(table).where(condition).limit(limit).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one())


def page_of(
    connection: sa.Connection,
    listing: KeysetList,
    filters: Filter,
    conditions: list[Condition],
    along: Walk,
    after: Key | None,
    limit: int,
    scan: int,
) -> Page:
    """Return a page of a list: of a small set where the filter names one, or along the list's order.

    `conditions`: the complete filter. `along`: the walk, see `KeysetList.page`.
    """
    for which in _sets(connection, listing.key[0].table, filters):
        if (found := listing.page_of_set(connection, which, conditions, after, limit, scan)) is not None:
            return found
    return listing.page(connection, along, after, limit, scan)


def walk_of(table: sa.Table, filters: Filter, conditions: Callable[[Filter], list[Condition]]) -> Walk:
    """Return the walk of runs or events by the index that serves most of the filter. `conditions`: what the rest of
    the filter means for a row."""
    it, rest = table.c, replace(filters, since=None, until=None)
    paths: list[list[Condition]] = [[]]
    if filters.workflow and table is runs:
        paths, rest = [[it.workflow_id == filters.workflow]], replace(rest, workflow="")
    elif filters.status and not {"completed", ""} & set(filters.status):
        paths = [[it.outcome == each, *unsuccessful(table)] for each in sorted(set(filters.status))]
        rest = replace(rest, status=())
    elif filters.source:
        paths, rest = [[it.source == filters.source]], replace(rest, source="")
    return Walk(paths, conditions(rest), filters.since, filters.until)


def begins_with(table: sa.FromClause, beginning: str) -> Condition:
    """Return the condition that a run's id begins with `beginning`, for an index, which sorts bytewise."""
    return sa.and_(table.c.run_id >= beginning, table.c.run_id < beginning + _LAST)


def _sets(connection: sa.Connection, table: sa.FromClause, filters: Filter) -> Iterator[Condition]:
    """Yield conditions of what may be a small set of `table` with all matches; an index serves each."""
    if filters.delivery and table is deliveries:
        yield begins(deliveries.c.id, filters.delivery)
    if filters.event_id and table is events:
        yield begins(events.c.id, filters.event_id)
    elif filters.event_id and "event_id" in table.c:
        named = sa.select(events.c.id, events.c.run_id).where(begins(events.c.id, filters.event_id))
        found = connection.execute(named.limit(FEW + 1)).all()
        if len(found) == 1 and table is deliveries:
            yield sa.and_(table.c.run_id == found[0].run_id, table.c.event_id == found[0].id)
        elif len(found) <= FEW:  # else the id is cut very short
            yield among(table.c.run_id, sorted({each.run_id for each in found}))
    if filters.run_id:
        yield table.c.run_id == filters.run_id
    if filters.run_prefix:
        yield begins_with(table, filters.run_prefix)
    if filters.text and (keys := find_all(connection, text_query(filters.text), FEW)) is not None:
        yield among(table.c.run_id, sorted({run_id for _, run_id in keys}))
