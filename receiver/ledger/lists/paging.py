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
from functools import cache
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.expressions import bytewise, seldom, unindexed
from receiver.ledger.filters import Condition, is_storable
from receiver.ledger.lists.pieces import TOLD, WalkPiece, looked_through, together, told

# A place in a list: the values of its key. They sort as the list does, backwards.
Key = tuple[Any, ...]
Row = dict[str, Any]
Page = tuple[list[Row], Key | None]
# The conditions of each walk along an index.
Walks = Sequence[Sequence[Condition]]
# Returns a condition that at most SMALL rows meet, by an index; None when there are more.
SmallSet = Callable[[sa.Connection], Condition | None]

# Rows that one page looks at along its order, at the most; and at first, of several walks or where each row is dear.
SCAN: Final = 600
_FIRST: Final = 250
# Rows of a set that is read whole, which costs less than to look at as many.
SMALL: Final = 1000
# Walks that one statement looks along: a source has two, and there may be many.
_TOGETHER: Final = 8


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


def _by_bytes(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return the column as both databases sort it, and Python merges it."""
    return bytewise(column) if isinstance(column.type, sa.Text) else column


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a list: by these columns, each descending, or all `ascending`; the first has an index, and the
    others are unique together."""

    columns: tuple[sa.Column[Any], ...]
    ascending: bool = False

    def _named(self, *, by_index: bool) -> list[sa.ColumnElement[Any]]:
        first, *rest = self.columns
        return [first if by_index else unindexed(first), *map(_by_bytes, rest)]

    def terms(self, *, by_index: bool = True, backwards: bool = False) -> list[sa.ColumnElement[Any]]:
        """Return the terms of ORDER BY."""
        return self._directed(self._named(by_index=by_index), self.ascending != backwards)

    def terms_of(self, columns: Sequence[sa.ColumnElement[Any]]) -> list[sa.ColumnElement[Any]]:
        """Return the same by these columns, which have the key."""
        return self._directed([_by_bytes(each) for each in columns], self.ascending)

    @staticmethod
    def _directed(named: Sequence[sa.ColumnElement[Any]], ascending: bool) -> list[sa.ColumnElement[Any]]:
        return [each.asc() if ascending else each.desc() for each in named]

    def after(self, key: Key, *, by_index: bool = True) -> list[Condition]:
        """Return the conditions that a row comes after `key`."""
        named = self._named(by_index=by_index)
        first, all_of_it = sa.literal(key[0], self.columns[0].type), self._tuple(key)
        if self.ascending:
            return [named[0] >= first, sa.tuple_(*named) > all_of_it]
        return [named[0] <= first, sa.tuple_(*named) < all_of_it]

    def comes_after(self, one: Key, other: Key) -> bool:
        """Whether the first place comes after the other one."""
        return one > other if self.ascending else one < other

    def _tuple(self, key: Key) -> Any:
        return sa.tuple_(*(sa.literal(value, each.type) for each, value in zip(self.columns, key, strict=True)))


_ENDS: Final[sa.ColumnElement[Any]] = sa.column(TOLD[-1])


@dataclass(frozen=True, slots=True)
class Search:
    """What a page is looked for with.

    `conditions`: all that a row must meet, without an index. `walks`: conditions, each with an index that yields the
    list's order, or what finds them; a wanted row is in exactly one of them. `since`, `until`: where along the order it
    can be, by the first column, of which `floor` is below all values. `sets`: of conditions that an index serves in
    another order. `wide`: likewise, that are looked for only when the walks find too little, or soon where each row is
    `dear` to look at. `of_sets`: what the rows of a set must meet besides, as those of the walks do by themselves.
    """

    order: Order
    columns: tuple[sa.ColumnElement[Any], ...]
    conditions: Sequence[Condition] = ()
    walks: Walks | Callable[[sa.Connection], Walks] = ((),)
    since: float | None = None
    until: float | None = None
    floor: float | None = None
    sets: Sequence[SmallSet] = ()
    wide: Sequence[SmallSet] = ()
    dear: bool = False
    of_sets: Sequence[Condition] = ()

    def page(self, connection: sa.Connection, after: Key | None, limit: int) -> Page:
        """Return up to `limit` rows after this place, and the place to go on from; None at the end."""
        if after is not None and any(isinstance(each, str) and not is_storable(each) for each in after):
            return [], None  # somebody has made that place up
        for each in self.sets:
            if (condition := each(connection)) is not None:
                return self._whole(connection, condition, after, limit)
        # Rows that are looked at before wide sets are looked for.
        begin = _FIRST if self.dear else SCAN
        rows, rest = self._walk(connection, after, limit, begin)
        if rest is None or len(rows) >= limit or not self.conditions:
            return rows, rest
        for each in self.wide:
            if (condition := each(connection)) is not None:
                more, rest = self._whole(connection, condition, rest, limit - len(rows))
                return rows + more, rest
        if begin == SCAN:
            return rows, rest
        more, rest = self._walk(connection, rest, limit - len(rows), SCAN - begin)
        return rows + more, rest

    def _whole(self, connection: sa.Connection, condition: Condition, after: Key | None, limit: int) -> Page:
        """Return a page of the rows that meet `condition`, which are few, by reading them all."""
        shape = self._shape
        query = sa.select(*shape.columns).where(seldom(condition), *self.conditions, *self.of_sets)
        if after is not None:
            query = query.where(*self.order.after(after, by_index=False))
        query = query.order_by(*self.order.terms(by_index=False)).limit(limit + 1)
        found = connection.execute(query).all()
        rest = shape.key_of(found[limit - 1]) if len(found) > limit else None
        return [shape.row_of(each) for each in found[:limit]], rest

    def _walk(self, connection: sa.Connection, after: Key | None, limit: int, scan: int) -> Page:
        """Return a page found along the order, by looking at about `scan` rows at the most."""
        budget = _Budget(scan)
        walks: Walks = self.walks(connection) if callable(self.walks) else self.walks
        size = scan if len(walks) == 1 else max(1, min(_FIRST, scan) // max(1, len(walks)))
        stretches = [_Stretch(each, after, size) for each in walks]
        self._look(connection, stretches, limit)
        rows: list[Row] = []
        steps = [self._steps(connection, each, lambda: limit - len(rows), budget) for each in stretches]
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
        self, connection: sa.Connection, looked_at: _Stretch, left: Callable[[], int], budget: _Budget
    ) -> Iterator[tuple[Key, Row | None, bool]]:
        """Yield the wanted rows of one walk with their places, and between them the places up to which it has looked.

        The last item says whether the walk ended there for its budget, and not at its end. `looked_at`: its first
        stretch. `left`: returns how many rows the page may still have.
        """
        while True:
            for key, row in looked_at.rows:
                yield key, row, False
            if looked_at.rest is None:
                return
            budget.spend(looked_at.spent)
            is_over = budget.is_spent  # by the time it goes on, another walk may have spent the rest
            yield looked_at.rest, None, is_over
            if is_over:
                return
            looked_at = _Stretch(looked_at.walk, looked_at.rest, max(1, budget.left))
            self._look(connection, [looked_at], left())

    def _look(self, connection: sa.Connection, stretches: Sequence[_Stretch], limit: int) -> None:
        """Find what each of these stretches has, of different walks."""
        for first in range(0, len(stretches), _TOGETHER):
            some = stretches[first : first + _TOGETHER]
            if self.conditions and connection.dialect.name == "postgresql":
                self._read(connection, self._filtered_outside(some, limit), some, limit)
                continue
            if self.conditions:
                self._count(connection, some)
            self._read(connection, self._filtered_inside(some, limit), some, limit)
            if alike := [each for each in some if each.lowest is not None and not each.rows and each.rest is None]:
                self._read(connection, self._filtered_outside(alike, limit), alike, limit)

    def _read(
        self, connection: sa.Connection, query: sa.Select[Any], stretches: Sequence[_Stretch], limit: int
    ) -> None:
        # So many are shown, and each stretch has an end, but for one row more.
        most = limit + 1 + len(stretches)
        # Of the last row of a stretch it is told twice that it is wanted, and the end.
        rows = connection.execute(query.order_by(*self._shape.terms, _ENDS).limit(most)).all()
        self._take(rows, stretches, limit, is_cut=len(rows) == most)

    def _filtered_outside(self, stretches: Sequence[_Stretch], limit: int) -> sa.Select[Any]:
        """Return a query for what they have, of which no plan reads more."""
        shape, begins = self._shape, self._begins(stretches)
        rows = shape.rows.add_columns(sa.and_(*self.conditions).label("wanted")).where(*self._down_to(self.floor))
        pieces = [WalkPiece(rows.where(*each.walk, *begins[each.after]), each.size) for each in stretches]
        return looked_through(shape.named, pieces, limit + 1)

    def _count(self, connection: sa.Connection, stretches: Sequence[_Stretch]) -> None:
        """Find above which value of the first column they are: SQLite counts so many rows in the index alone. None are
        above it where all of them have that value."""
        first = self.order.columns[0]
        moments = sa.select(first).where(*self._down_to(self.floor)).order_by(self.order.terms()[0]).limit(1)
        query = sa.select(
            *(
                moments.where(*each.walk, *self._down_from_moment(each.after)).offset(each.counted).scalar_subquery()
                for each in stretches
            )
        )
        for each, lowest in zip(stretches, connection.execute(query).one(), strict=True):
            if lowest is not None and not self._is_before((lowest,)):
                each.lowest = lowest

    def _filtered_inside(self, stretches: Sequence[_Stretch], limit: int) -> sa.Select[Any]:
        """Return a query for what they have, and for the last row of each of which the lowest value is known."""
        shape, begins = self._shape, self._begins(stretches)
        rows = shape.rows.where(*self.conditions).limit(limit + 1)
        bottom = self._down_to(self.floor if self.since is None else self.since)
        walks = []
        for number, each in enumerate(stretches):
            its = [*each.walk, *begins[each.after], *(bottom if each.lowest is None else self._above(each.lowest))]
            walks.append(rows.add_columns(*told(number)).where(*its))
            if each.lowest is not None:
                walks.append(shape.backwards.add_columns(*told(number, ends=True)).where(*its))
        return together(shape.named, walks)

    def _take(self, rows: Sequence[sa.Row[Any]], stretches: Sequence[_Stretch], limit: int, *, is_cut: bool) -> None:
        """Give each stretch its rows. `is_cut`: nothing is known of what comes after the last of them."""
        shape = self._shape
        for row in rows:
            (number, is_wanted, is_end), key = row[: len(TOLD)], shape.key_of(row)
            it = stretches[number]
            if self._is_before(key):
                continue
            if is_wanted:
                it.rows.append((key, shape.row_of(row)))
            if len(it.rows) > limit:
                it.stop_at(key)
            elif is_end:
                it.end_at(key)
        if is_cut and not self._is_before(last := shape.key_of(rows[-1])):
            for it in stretches:
                if self._is_looked_through(it, last):
                    it.stop_at(last)

    def _is_looked_through(self, stretch: _Stretch, place: Key) -> bool:
        """Whether it goes further than to this place, up to which all that was asked for has been found."""
        if stretch.rest is not None:
            return self.order.comes_after(stretch.rest, place)
        # Above its lowest value there may be nothing, which says nothing of what has that value.
        return stretch.lowest is None or self.order.comes_after((stretch.lowest,), place[:1])

    @property
    def _shape(self) -> _Shape:
        return _shape_of(self.columns, self.order)

    def _is_before(self, key: Key) -> bool:
        """Whether all rows from this place on are older than those that are wanted."""
        return self.since is not None and key[0] < self.since

    # Each end of a stretch has one bound, the nearest: of two, SQLite may take the other one for its index, and read
    # what is between them.

    def _begins(self, stretches: Sequence[_Stretch]) -> dict[Key | None, list[Condition]]:
        """Return the conditions of where they begin. What is the same for all is made once: SQLAlchemy takes longer
        for conditions than a database for rows."""
        return {after: self._down_from(after) for after in {each.after for each in stretches}}

    def _down_from(self, after: Key | None) -> list[Condition]:
        if after is not None:
            return self.order.after(after)
        return [] if self.until is None else [self.order.columns[0] < self.until]

    def _down_from_moment(self, after: Key | None) -> list[Condition]:
        return self._down_from(None) if after is None else self.order.after(after)[:1]

    def _down_to(self, end: float | None) -> list[Condition]:
        return [] if end is None else [self.order.columns[0] >= end]

    def _above(self, lowest: float) -> list[Condition]:
        first = self.order.columns[0]
        return [first < lowest if self.order.ascending else first > lowest]


class _Stretch:
    """A part of a walk behind a place, of up to `size` rows, and what it has: `rows` that are wanted, and `rest`, the
    place to go on from; None at the end of the walk. `spent`: rows that have been looked at up to there. `lowest`: the
    value of the first column above which all of it is, if it is known to be full."""

    def __init__(self, walk: Sequence[Condition], after: Key | None, size: int) -> None:
        self.walk, self.after, self.size = walk, after, size
        self.rows: list[tuple[Key, Row]] = []
        self.rest: Key | None = None
        self.spent = 0
        self.lowest: float | None = None

    @property
    def counted(self) -> int:
        """Rows from its first moment on, with the one behind which it begins, before the first that is not its own."""
        return self.size + (self.after is not None)

    def end_at(self, place: Key) -> None:
        """All of it has been looked at; it ends here."""
        self.rest, self.spent = place, self.size

    def stop_at(self, place: Key) -> None:
        """It has enough up to here, and may have more."""
        self.rest, self.spent = place, 0


class _Shape:
    """The columns of a search. `columns`: with those of the key. `rows`, `backwards`: queries for them in order, and
    for the last one. `named`, `terms`: the columns and the terms of ORDER BY by name, for a query of what has them."""

    def __init__(self, columns: Sequence[sa.ColumnElement[Any]], order: Order) -> None:
        self._names = [str(each.key) for each in columns]
        hidden = [each for each in order.columns if each.key not in self._names]
        self.columns = [*columns, *hidden]
        self.rows = sa.select(*self.columns).order_by(*order.terms())
        self.backwards = sa.select(*self.columns).order_by(*order.terms(backwards=True)).limit(1)
        by_name = {str(each.key): sa.column(str(each.key), each.type) for each in self.columns}
        self.named = list(by_name.values())
        self.terms = order.terms_of([by_name[each.key] for each in order.columns])
        self._key = [list(by_name).index(str(each.key)) - len(by_name) for each in order.columns]

    def key_of(self, row: sa.Row[Any]) -> Key:
        """Return the place of a row, whose last columns are these."""
        return tuple([row[place] for place in self._key])

    def row_of(self, row: sa.Row[Any]) -> Row:
        """Return what is shown of it."""
        return dict(zip(self._names, row[-len(self.columns) :], strict=False))


@cache
def _shape_of(columns: tuple[sa.ColumnElement[Any], ...], order: Order) -> _Shape:
    """Return the shape of a search. It is kept: the columns are the same for each page of a list."""
    return _Shape(columns, order)


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
