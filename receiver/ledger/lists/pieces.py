"""Several walks along an index in one statement, each of which reads no more than its piece: its next rows, so many at
the most.

A statement costs as much as some hundred rows, and a list may have a walk for each state of a delivery.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

# What each row begins with: the number of its walk, whether it is wanted, and whether it is the last of a full piece.
TOLD: Final = ("walk", "wanted", "ends")

# In a subquery, as SQLite wants it of what has a LIMIT and is one of several.
_WALK: Final = "SELECT * FROM {walk} AS one"
_PIECE: Final = (
    "SELECT * FROM (SELECT {number} AS walk, place = {size} AS ends, numbered.*"
    " FROM (SELECT row_number() OVER () AS place, looked_at.* FROM {walk} AS looked_at) AS numbered"
    " WHERE wanted OR place = {size} LIMIT {limit}) AS one"
)


class WalkPiece(NamedTuple):
    """`walk`: a query of rows in their order, of which a column `wanted` tells whether the filter takes them. `size`:
    how many of them are looked at."""

    walk: sa.Select[Any]
    size: int


class _Walks(FunctionElement[Any]):
    """The rows of several queries, each of which has a LIMIT."""

    inherit_cache = True
    name = "walks"

    def __init__(self, walks: Sequence[sa.Select[Any]]) -> None:
        super().__init__(*(each.scalar_subquery() for each in walks))


@compiles(_Walks)
def _walks(element: _Walks, compiler: Any, **_: Any) -> str:
    return _all_of(_WALK.format(walk=compiler.process(each)) for each in element.clauses)


class _Pieces(FunctionElement[Any]):
    """The rows of several pieces that are wanted, and the last one of each that is full; `limit` of each piece."""

    inherit_cache = True
    name = "pieces"

    def __init__(self, pieces: Sequence[WalkPiece], limit: int) -> None:
        parts = [
            part for each in pieces for part in (each.walk.limit(each.size).scalar_subquery(), sa.literal(each.size))
        ]
        super().__init__(sa.literal(limit), *parts)


@compiles(_Pieces)
def _pieces(element: _Pieces, compiler: Any, **_: Any) -> str:
    limit, *parts = [compiler.process(each) for each in element.clauses]
    return _all_of(
        _PIECE.format(number=number, walk=walk, size=size, limit=limit)
        for number, (walk, size) in enumerate(zip(parts[::2], parts[1::2], strict=True))
    )


def _all_of(queries: Iterable[str]) -> str:
    return f"({' UNION ALL '.join(queries)})"


@cache
def told(number: int, *, ends: bool = False) -> tuple[sa.ColumnElement[Any], ...]:
    """Return what the rows of a walk begin with that are all wanted, or are all its end."""
    values = (number, int(not ends), int(ends))
    return tuple(sa.literal_column(str(each)).label(name) for name, each in zip(TOLD, values, strict=True))


def together(columns: Sequence[sa.ColumnElement[Any]], walks: Sequence[sa.Select[Any]]) -> sa.Select[Any]:
    """Return a query for the rows of all walks, each of which has a LIMIT: `TOLD`, then `columns`, which the walks have
    by their names. It has no order."""
    return _from(_Walks(walks), columns)


def looked_through(columns: Sequence[sa.ColumnElement[Any]], pieces: Sequence[WalkPiece], limit: int) -> sa.Select[Any]:
    """Return the same for the rows of pieces that are wanted, and the last one of each that is full. Up to `limit` rows
    are of one piece.

    The filter is outside of the LIMIT. With both together, or with the place of the last row instead of a LIMIT,
    PostgreSQL takes another index where it expects hardly a row, as of those that are newer than its statistics, and
    reads all of that. SQLite sorts a piece that it has not filtered, and numbers it, for four times as much.
    """
    return _from(_Pieces(pieces, limit), columns)


def _from(found: FunctionElement[Any], columns: Sequence[sa.ColumnElement[Any]]) -> sa.Select[Any]:
    names: list[sa.ColumnElement[Any]] = [sa.column(name) for name in TOLD]
    return sa.select(*names, *columns).select_from(found.alias("found"))
