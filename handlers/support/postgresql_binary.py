"""Values in PostgreSQL's binary format, which its server reads without looking at each character. Pure.

The format of each type is that of its `…send` function in PostgreSQL's sources; numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

_HEAD: Final = struct.Struct("!iiIii")  # dimensions, whether there are nulls, type, length, lower bound
_EMPTY: Final = struct.Struct("!iiI")
_LENGTH: Final = struct.Struct("!i").pack
_NULL: Final = _LENGTH(-1)
_INT8: Final = struct.Struct("!q").pack
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Type(NamedTuple):
    """A type of PostgreSQL: its number in pg_type, and how a value is written. `code`: struct's, of a fixed length.

    `write` raises UnicodeEncodeError or struct.error for a value that the type has not.
    """

    oid: int
    write: Callable[[Any], bytes]
    code: str = ""


def _fixed(oid: int, code: str) -> Type:
    return Type(oid, struct.Struct(f"!{code}").pack, code)


BOOL: Final = _fixed(16, "?")
BYTEA: Final = Type(17, bytes)
INT8: Final = _fixed(20, "q")
INT4: Final = _fixed(23, "i")
TEXT: Final = Type(25, str.encode)
ENCODED: Final = Type(25, bytes)  # a text that is UTF-8 already
FLOAT8: Final = _fixed(701, "d")
TIMESTAMPTZ: Final = Type(1184, lambda moment: _INT8((moment - _EPOCH) // _MICROSECOND))


def array(of: Type, values: Sequence[Any]) -> bytes:
    """Return an array of one dimension; a value that is None is NULL. Raises as `Type.write`."""
    count = len(values)
    if not count:
        return _EMPTY.pack(0, 0, of.oid)
    first = values[0]
    if type(first) in _WRITTEN_ALIKE and first == values[-1] and values.count(first) == count:
        written = of.write(first)
        return _HEAD.pack(1, False, of.oid, count, 1) + (_LENGTH(len(written)) + written) * count
    nulls = type(None) in set(map(type, values))
    head = _HEAD.pack(1, nulls, of.oid, count, 1)
    if of.code and not nulls:
        words = [struct.calcsize(f"!{of.code}")] * (2 * count)
        words[1::2] = values
        return head + struct.pack("!" + f"i{of.code}" * count, *words)
    if nulls:
        cells = [None if value is None else of.write(value) for value in values]
        return head + b"".join([_NULL if cell is None else _LENGTH(len(cell)) + cell for cell in cells])
    parts = [head] * (2 * count + 1)
    parts[2::2] = map(of.write, values)
    parts[1::2] = map(_LENGTH, map(len, parts[2::2]))
    return b"".join(parts)


# Types whose values are written alike when they are equal. A number may be written with more digits or fewer.
_WRITTEN_ALIKE: Final = frozenset({str, bytes, datetime})
