"""How a page of a list is found without reading much more than it shows.

A list has an order (its key: unique, the newest first) and indexes that yield it. A condition that no index serves is
checked row by row along the order, for a bounded number of rows (`SCAN`): a page may then be short, and the next goes
on where this one ended. A condition that an index serves, but in another order (a run, a source), is read as a whole
and sorted if it is small; if it is not, it is found soon enough along the order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.expressions import bytewise, seldom, unindexed
from receiver.ledger.filters import Condition, is_storable

# A place in a list: the values of its key. They sort as the list does, backwards.
Key = tuple[Any, ...]
Row = dict[str, Any]
Page = tuple[list[Row], Key | None]
# Returns a condition that at most SMALL rows meet, by an index; None when there are more.
SmallSet = Callable[[sa.Connection], Condition | None]

# Rows that one page looks at along its order, at the most; and in the first stretch of these.
SCAN: Final = 600
_FIRST: Final = 250
# Rows of a set that is read whole, which costs less than to look at as many.
SMALL: Final = 1000


def small_set(table: sa.Table, condition: Condition) -> SmallSet:
    """Return the rows of `table` that meet `condition`, which an index serves, if they are few."""

    def found(connection: sa.Connection) -> Condition | None:
        return condition if count_up_to(connection, table, condition, SMALL + 1) <= SMALL else None

    return found


def count_up_to(connection: sa.Connection, table: sa.Table, condition: Condition, limit: int) -> int:
    """Return how many rows of `table` meet `condition`, but not more than `limit`."""
    some = sa.select(sa.literal_column("1")).select_from(table).where(condition).limit(limit).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(some)).scalar_one())


def unsuccessful(table: sa.Table) -> list[Condition]:
    """Return the conditions of the index on what went wrong, in its own words, by which a planner knows it."""
    return [table.c.outcome != sa.literal_column(value) for value in ("'completed'", "''")]


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a list: by these columns, each descending, or all `ascending`; the first has an index, and the
    others are unique together."""

    columns: tuple[sa.Column[Any], ...]
    ascending: bool = False

    def _named(self, *, by_index: bool) -> list[sa.ColumnElement[Any]]:
        first, *rest = self.columns
        named: list[sa.ColumnElement[Any]] = [first if by_index else unindexed(first)]
        # By bytes on both databases, as Python merges them.
        return named + [bytewise(each) if isinstance(each.type, sa.Text) else each for each in rest]

    def terms(self, *, by_index: bool = True) -> list[sa.ColumnElement[Any]]:
        """Return the terms of ORDER BY."""
        return [each.asc() if self.ascending else each.desc() for each in self._named(by_index=by_index)]

    def after(self, key: Key, *, by_index: bool = True) -> list[Condition]:
        """Return the conditions that a row comes after `key`."""
        named = self._named(by_index=by_index)
        first, all_of_it = sa.literal(key[0], self.columns[0].type), self._tuple(key)
        if self.ascending:
            return [named[0] >= first, sa.tuple_(*named) > all_of_it]
        return [named[0] <= first, sa.tuple_(*named) < all_of_it]

    def up_to(self, key: Key) -> list[Condition]:
        """Return the conditions that a row comes before `key`, or is there."""
        named = self._named(by_index=True)
        first, all_of_it = sa.literal(key[0], self.columns[0].type), self._tuple(key)
        if self.ascending:
            return [named[0] <= first, sa.tuple_(*named) <= all_of_it]
        return [named[0] >= first, sa.tuple_(*named) >= all_of_it]

    def _tuple(self, key: Key) -> Any:
        return sa.tuple_(*(sa.literal(value, each.type) for each, value in zip(self.columns, key, strict=True)))

    def key_of(self, row: sa.Row[Any]) -> Key:
        """Return the place of a row, whose last columns are those of the key."""
        return tuple(row[-len(self.columns) :])


@dataclass(frozen=True, slots=True)
class Search:
    """What a page is looked for with.

    `conditions`: all that a row must meet, without an index. `walks`: conditions, each with an index that yields the
    list's order; a wanted row is in exactly one of them. `since`, `until`: where along the order it can be, by the
    first column, of which `floor` is below all values. `sets`: of conditions that an index serves in another order.
    `wide`: likewise, that are looked for only when the walks find too little at first. `of_sets`: what the rows of a
    set must meet besides, as those of the walks do by themselves.
    """

    order: Order
    columns: Sequence[sa.ColumnElement[Any]]
    conditions: Sequence[Condition] = ()
    walks: Sequence[Sequence[Condition]] = ((),)
    since: float | None = None
    until: float | None = None
    floor: float | None = None
    sets: Sequence[SmallSet] = ()
    wide: Sequence[SmallSet] = ()
    of_sets: Sequence[Condition] = ()

    def page(self, connection: sa.Connection, after: Key | None, limit: int) -> Page:
        """Return up to `limit` rows after this place, and the place to go on from; None at the end."""
        if after is not None and any(isinstance(each, str) and not is_storable(each) for each in after):
            return [], None  # somebody has made that place up
        for each in self.sets:
            if (condition := each(connection)) is not None:
                return self._whole(connection, condition, after, limit)
        if not (self.wide and self.conditions):
            return self._walk(connection, after, limit, SCAN)
        rows, rest = self._walk(connection, after, limit, _FIRST)
        if rest is None or len(rows) >= limit:
            return rows, rest
        for each in self.wide:
            if (condition := each(connection)) is not None:
                more, rest = self._whole(connection, condition, rest, limit - len(rows))
                return rows + more, rest
        more, rest = self._walk(connection, rest, limit - len(rows), SCAN - _FIRST)
        return rows + more, rest

    def _query(self, *conditions: Condition) -> sa.Select[Any]:
        keys = [each.label(f"key_{number}") for number, each in enumerate(self.order.columns)]
        return sa.select(*self.columns, *keys).where(*conditions)

    def _row(self, row: sa.Row[Any]) -> Row:
        return {name: row._mapping[name] for name in list(row._mapping.keys())[: -len(self.order.columns)]}

    def _whole(self, connection: sa.Connection, condition: Condition, after: Key | None, limit: int) -> Page:
        """Return a page of the rows that meet `condition`, which are few, by reading them all."""
        query = self._query(seldom(condition), *self.conditions, *self.of_sets)
        if after is not None:
            query = query.where(*self.order.after(after, by_index=False))
        query = query.order_by(*self.order.terms(by_index=False)).limit(limit + 1)
        found = connection.execute(query).all()
        rest = self.order.key_of(found[limit - 1]) if len(found) > limit else None
        return [self._row(each) for each in found[:limit]], rest

    def _walk(self, connection: sa.Connection, after: Key | None, limit: int, scan: int) -> Page:
        """Return a page found along the order, by looking at about `scan` rows at the most."""
        budget = _Budget(scan)
        steps = [self._steps(connection, walk, after, limit, budget) for walk in self.walks]
        rows: list[Row] = []
        shown: set[Key] = set()
        last: Key | None = None
        for key, row, is_over in heapq.merge(*steps, key=itemgetter(0), reverse=not self.order.ascending):
            if row is not None and key[1:] in shown:
                continue  # PostgreSQL: it went from one walk to another, and to another place, between their statements
            if row is not None and len(rows) < limit:
                rows.append(row)
                shown.add(key[1:])
                last = key
                continue
            if row is not None or len(rows) >= limit:
                return rows, last
            if is_over:
                return rows, key
        return rows, None

    def _steps(
        self, connection: sa.Connection, walk: Sequence[Condition], after: Key | None, limit: int, budget: _Budget
    ) -> Iterator[tuple[Key, Row | None, bool]]:
        """Yield the wanted rows of one walk with their places, and between them the places up to which it has looked.

        The last item says whether the walk ended there for its budget, and not at its end.
        """
        size = max(1, min(_FIRST, budget.left) // len(self.walks))
        while True:
            end = self._end(connection, walk, after, size) if self.conditions else None
            if end is not None and self.since is not None and end[0] < self.since:
                end = None  # the last stretch
            lower = self.floor if self.since is None else self.since
            query = self._query(*walk, *self._between(after, end or lower), *self.conditions)
            found = connection.execute(query.order_by(*self.order.terms()).limit(limit + 1)).all()
            for row in found:
                yield self.order.key_of(row), self._row(row), False
            if len(found) > limit:
                after = self.order.key_of(found[-1])
            elif end is None:
                return
            else:
                after = end
                budget.spend(size)
                is_over = budget.is_spent  # by the time it goes on, another walk may have spent the rest
                yield after, None, is_over
                if is_over:
                    return
                size = max(1, budget.left)

    def _end(self, connection: sa.Connection, walk: Sequence[Condition], after: Key | None, size: int) -> Key | None:
        """Return the place of the row number `size` of a walk; None when there are fewer."""
        query = sa.select(*self.order.columns).where(*walk, *self._between(after, self.floor))
        found = connection.execute(query.order_by(*self.order.terms()).limit(1).offset(size - 1)).first()
        return None if found is None else tuple(found)

    def _between(self, after: Key | None, end: Key | float | None) -> list[Condition]:
        """Return the conditions of a piece of the order, down to a place or to a value of the first column.

        Each end has one bound, the nearest: of two, SQLite may take the other one for its index, and read what is
        between them. PostgreSQL does not know how many rows came since it last looked: so a piece ends where so many
        have been counted, before it ends by time.
        """
        first = self.order.columns[0]
        found: list[Condition] = []
        if after is not None:
            found += self.order.after(after)
        elif self.until is not None:
            found.append(first < self.until)
        if isinstance(end, tuple):
            found += self.order.up_to(end)
        elif end is not None:
            found.append(first >= end)
        return found


class _Budget:
    """Rows that a page may still look at."""

    def __init__(self, rows: int) -> None:
        self.left = rows

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left."""
        return self.left <= 0

    def spend(self, rows: int) -> None:
        """Take so many away."""
        self.left -= rows
