"""Rows as PostgreSQL is sent them: few as parameters, more as an array a column. Knows no table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from handlers.database.table import Column
from handlers.support import postgresql_binary

# How a column's values go to PostgreSQL, and what it makes of them: a name of its own, or "" if they are that already.
_SENT: Final[Mapping[str, tuple[postgresql_binary.Type, str, str]]] = {
    "text": (postgresql_binary.TEXT, "text", ""),
    "integer": (postgresql_binary.INT8, "bigint", ""),
    "number": (
        postgresql_binary.Type(postgresql_binary.TEXT.oid, lambda number: str(number).encode()),
        "text",
        "numeric",
    ),
    "boolean": (postgresql_binary.BOOL, "boolean", ""),
    "timestamp": (postgresql_binary.TIMESTAMPTZ, "timestamptz", ""),
    "json": (postgresql_binary.ENCODED, "text", "jsonb"),
}

# Rows of one statement that go as parameters, not as an array a column: an array costs both sides more than a few
# values, and a set of rows is made of them first.
FEW: Final = 8

# Columns that mostly have one value in all rows of a batch, the likeliest first. Then it goes as one value, not as an
# array, each value of which PostgreSQL reads, stores and copies.
_OFTEN_ALIKE: Final = (
    ("source", "attempt", "retry_pending", "via", "is_test", "delivered_at"),
    ("run_type", "status", "original_status"),
)

# Rows, as the values of each column.
ByColumn = Mapping[str, Sequence[Any]]


class SentRows:
    """The rows of an INSERT into `columns`. `quoted`: a name as it stands in SQL."""

    def __init__(self, columns: Sequence[Column], quoted: Callable[[str], str]) -> None:
        self._kinds = {column.name: column.kind for column in columns}
        self._quoted = quoted
        # Of many columns no row has a value. Statements differ by those that had one until now: each of the others is
        # an array less for PostgreSQL to make rows of, or a parameter less a row.
        self._filled: tuple[str, ...] = ()
        # Texts do not depend on the rows: to make them was a tenth of what a batch of one row cost.
        self._as_parameters = lru_cache(maxsize=256)(self._build_parameters)
        self._as_arrays = lru_cache(maxsize=256)(self._build_arrays)

    def source(self, rows: ByColumn) -> tuple[str, list[bytes | None]]:
        """Return what stands for the rows in an INSERT, and its parameters."""
        filled = self._with_values(rows)
        sent = [(name, _SENT[self._kinds[name]][0], rows[name]) for name in filled]
        count = len(sent[0][2])
        if count <= FEW:
            cells = [(kind.write, values[row]) for row in range(count) for _, kind, values in sent]
            return self._as_parameters(filled, count), [None if cell is None else write(cell) for write, cell in cells]
        # With a parameter for each of 256 rows × 38 columns, the driver takes longer than the database needs to write
        # them.
        alike = _alike({name: values for name, _, values in sent})
        return self._as_arrays(filled, alike), [
            _one(kind, values[0]) if name in alike else postgresql_binary.array(kind, values)
            for name, kind, values in sent
        ]

    def _with_values(self, rows: ByColumn) -> tuple[str, ...]:
        """Return the columns in which a row has a value, or had one in an earlier statement."""
        filled = self._filled
        new = {name for name in self._kinds if name not in filled and rows[name].count(None) < len(rows[name])}
        if new:
            filled = self._filled = tuple(name for name in self._kinds if name in new or name in filled)
        return filled

    def _build_parameters(self, filled: tuple[str, ...], count: int) -> str:
        places = itertools.count(1)
        rows = (
            ", ".join(self._cast(name, f"${next(places)}" if name in filled else "NULL") for name in self._kinds)
            for _ in range(count)
        )
        return f"VALUES {', '.join(f'({row})' for row in rows)}"

    def _build_arrays(self, filled: tuple[str, ...], alike: frozenset[str]) -> str:
        places = {name: f"${place}" for place, name in enumerate(filled, 1)}
        many = [name for name in filled if name not in alike]
        arrays = ", ".join(f"{places[name]}::{_SENT[self._kinds[name]][1]}[]" for name in many)
        values = places | {name: self._quoted(name) for name in many}
        columns = ", ".join(self._cast(name, values.get(name, "NULL")) for name in self._kinds)
        names = ", ".join(values[name] for name in many)
        # WHERE true, since ON CONFLICT could be read as a join's condition.
        return f"SELECT {columns} FROM unnest({arrays}) AS new({names}) WHERE true"  # noqa: S608 - names are checked

    def _cast(self, name: str, value: str) -> str:
        """Return the expression that makes of a sent `value` what the column holds."""
        _, kind, made = _SENT[self._kinds[name]]
        return f"CAST({value}::{kind} AS {made or kind})"


def _one(kind: postgresql_binary.Type, value: Any) -> bytes | None:
    return None if value is None else kind.write(value)


def _alike(rows: ByColumn) -> frozenset[str]:
    """Return the columns that are sent as one value, which all rows have."""
    alike: frozenset[str] = frozenset()
    for names in _OFTEN_ALIKE:
        there = [name for name in names if name in rows]
        if not all(rows[name].count(rows[name][0]) == len(rows[name]) for name in there):
            break
        alike |= frozenset(there)
    return alike
