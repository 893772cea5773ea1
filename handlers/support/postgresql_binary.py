"""Values in PostgreSQL's binary format, which its server reads without looking at each character. Pure.

The format of each type is that of its `…send` function in PostgreSQL's sources; numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

_HEAD: Final = struct.Struct("!iiIii")  # dimensions, whether there are nulls, type, length, lower bound
_EMPTY: Final = struct.Struct("!iiI")
_LENGTH: Final = struct.Struct("!i").pack
_NULL: Final = _LENGTH(-1)


class Type(NamedTuple):
    """A type of PostgreSQL: its number in pg_type, and how a value is written.

    `write` raises UnicodeEncodeError or struct.error for a value that the type has not.
    """

    oid: int
    write: Callable[[Any], bytes]


BOOL: Final = Type(16, lambda value: b"\1" if value else b"\0")
BYTEA: Final = Type(17, bytes)
INT8: Final = Type(20, struct.Struct("!q").pack)
INT4: Final = Type(23, struct.Struct("!i").pack)
TEXT: Final = Type(25, str.encode)
FLOAT8: Final = Type(701, struct.Struct("!d").pack)


def array(of: Type, values: Iterable[Any]) -> bytes:
    """Return an array of one dimension; a value that is None is NULL. Raises as `Type.write`."""
    oid, write = of
    parts: list[bytes] = []
    count = nulls = 0
    for value in values:
        count += 1
        if value is None:
            nulls = 1
            parts.append(_NULL)
        else:
            written = write(value)
            parts += (_LENGTH(len(written)), written)
    head = _HEAD.pack(1, nulls, oid, count, 1) if count else _EMPTY.pack(0, 0, oid)
    return head + b"".join(parts)
