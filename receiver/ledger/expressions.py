"""SQL that both databases mean alike, spelt for each of them."""

from __future__ import annotations

import string
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

_LOWER: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def storable(text: str) -> str:
    """Return text of others as every database takes it: without NUL and lone surrogates, cut to 500 characters."""
    return text.replace("\0", "").encode(errors="replace").decode()[:500]


def _spell(construct: type[FunctionElement[Any]], *, sqlite: str, postgresql: str) -> None:
    """Give a construct its SQL on each database, in which `{}` stands for what it holds."""
    for dialect, form in (("sqlite", sqlite), ("postgresql", postgresql)):

        def written(element: Any, compiler: Any, form: str = form, **options: Any) -> str:
            return form.format(compiler.process(element.clauses, **options))

        compiles(construct, dialect)(written)


class _OfItsType(FunctionElement[Any]):
    """A column or value, written in another way."""

    inherit_cache = True

    def __init__(self, written: sa.ColumnElement[Any]) -> None:
        super().__init__(written)
        self.type = written.type


class unindexed(_OfItsType):  # noqa: N801 - reads like the SQL that it becomes
    """The column, for which no index is chosen: the statement reads its rows in an order of its own."""

    inherit_cache = True
    name = "unindexed"


@compiles(unindexed, "sqlite")
def _unindexed_sqlite(element: unindexed, compiler: Any, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


@compiles(unindexed, "postgresql")
def _unindexed_postgresql(element: unindexed, compiler: Any, **options: Any) -> str:
    nothing = "|| ''" if isinstance(element.type, sa.Text) else "+ 0"
    return f"({compiler.process(element.clauses, **options)} {nothing})"


class unseen(_OfItsType):  # noqa: N801
    """A value that PostgreSQL does not know when it plans.

    Of a source that its statistics have not met it expects hardly a row: then it takes any index that begins with the
    source, and reads all of it. In a large ledger they are made anew after a million rows.
    """

    inherit_cache = True
    name = "unseen"


_spell(unseen, sqlite="{}", postgresql="(SELECT {})")


class seldom(FunctionElement[bool]):  # noqa: N801
    """The condition, which few rows meet. SQLite, which may know of a table only how small it once was, would rather
    read all of it than look these up."""

    # Of no type: one that is a boolean is written with " = 1" behind it, which hides it from SQLite's planner.
    inherit_cache = True
    name = "seldom"


_spell(seldom, sqlite="unlikely({})", postgresql="({})")


class bytewise(_OfItsType):  # noqa: N801
    """The text, compared and sorted by its bytes, as Python compares and sorts texts."""

    inherit_cache = True
    name = "bytewise"


_spell(bytewise, sqlite="{}", postgresql='({} COLLATE "C")')


class _Position(FunctionElement[int]):
    """Where a text is in another, from 1; 0: nowhere."""

    inherit_cache = True
    name = "position_in"
    type = sa.Integer()


_spell(_Position, sqlite="instr({})", postgresql="strpos({})")


def contains(column: sa.ColumnElement[Any], part: str) -> sa.ColumnElement[bool]:
    """Return the condition that `part` is somewhere in the column, with the letters A-Z in either case."""
    return contains_exactly(sa.func.lower(bytewise(column)), part.translate(_LOWER))


def contains_exactly(column: sa.ColumnElement[Any], part: str | sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Return the condition that `part` is somewhere in the column."""
    return _Position(column, sa.literal(part, sa.Text()) if isinstance(part, str) else part) > 0


def starts_with(column: sa.ColumnElement[Any], beginning: str) -> sa.ColumnElement[bool]:
    """Return the condition that the column begins with exactly `beginning`, for which no index is used."""
    return sa.func.substr(column, 1, len(beginning)) == beginning


def each_value(column: sa.ColumnElement[Any], *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select the texts in a column of the rows that meet the conditions, but "", by a jump in an index from each to the
    next: it begins with the column, or has the conditions for its own."""

    def following(last: Any) -> sa.ScalarSelect[Any]:
        further = sa.select(column).where(*conditions, column > last)
        return further.order_by(column).limit(1).scalar_subquery()

    walk = sa.select(following("").label("value")).cte(recursive=True)
    walk = walk.union_all(sa.select(following(walk.c.value)).where(walk.c.value.is_not(None)))
    return sa.select(walk.c.value).where(walk.c.value.is_not(None))


class _Whole(FunctionElement[int]):
    """The number without its fraction; of one that is not negative."""

    inherit_cache = True
    name = "whole"
    type = sa.BigInteger()


_spell(_Whole, sqlite="CAST({} AS INTEGER)", postgresql="CAST(floor({}) AS BIGINT)")


def bucket_of(moment: sa.ColumnElement[Any], seconds: float) -> sa.ColumnElement[int]:
    """Return the number of the bucket, of so many seconds, that a time since the epoch is in."""
    return _Whole(moment / sa.literal(float(seconds), sa.Double()))
