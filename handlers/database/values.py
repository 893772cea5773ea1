"""Convert values of a payload for a database. Pure.

Databases refuse NUL and lone surrogates in text, NaN and Infinity in JSON, integers past 64 bits in integer columns.
Such values must not lose a result. Text gets U+FFFD and JSON null instead. A column that can't store its value is null;
the JSON of `output` keeps the complete value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from handlers.support.timestamps import utc

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?")

INT64 = range(-(2**63), 2**63)


class ConversionError(ValueError):
    """The column's type can't store the value."""


def storable(value: str) -> str:
    """Return `value` with NUL and lone surrogates, which no database stores, replaced by U+FFFD."""
    if value.isascii():
        return value.replace("\0", "\ufffd")
    return value if value.isprintable() else _UNSTORABLE.sub("\ufffd", value)


def to_json(value: Any) -> bytes:
    """Return compact JSON that any database accepts: long integers stay, NaN and infinities become null.

    Raises RecursionError when nested hundreds of levels deep.
    """
    try:
        encoded = orjson.dumps(value)
        # Most have no backslash; a search for one byte is much faster than for six.
        if b"\\" not in encoded or b"\\u0000" not in encoded:
            return encoded
    except TypeError:  # long integers, lone surrogates, more than 254 levels
        pass
    return json.dumps(_clean(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, (dict, Mapping)):
        return {storable(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_text(value: Any) -> str:
    """Convert to text: strings unchanged, the rest as JSON."""
    return storable(value) if isinstance(value, str) else to_json(value).decode()


def to_integer(value: Any) -> int:
    """Convert a whole number of 64 bits, also from text or a float. Raises ConversionError."""
    if type(value) is int and value in INT64:
        return value
    number = to_number(value)
    if number != number.to_integral_value() or not -(2**63) <= number < 2**63:
        raise ConversionError("not a 64-bit integer")
    return int(number)


def to_number(value: Any) -> Decimal:
    """Convert a number, also from text (1234.50, no thousands separators). Raises ConversionError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConversionError("no number")
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.fullmatch(value):
            raise ConversionError("no number")
    try:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    except InvalidOperation:
        raise ConversionError("no number") from None
    if not math.isfinite(float(number)):  # exceeds a double, SQLite's number type
        raise ConversionError("not a finite number")
    return number


def to_boolean(value: Any) -> bool:
    """Convert true and false, also from text. Raises ConversionError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ConversionError("neither true nor false")


def to_timestamp(value: Any) -> datetime:
    """Convert ISO 8601 text; without an offset it is UTC, as in Skyvern. Raises ConversionError."""
    timestamp = moment(value)
    if timestamp is None:
        raise ConversionError("no time")
    return timestamp


def moment(value: Any) -> datetime | None:
    """Convert ISO 8601 text; None for any other value."""
    return utc(value.strip()) if isinstance(value, str) else None


def value_at(value: Any, keys: Sequence[str]) -> Any:
    """Return the value at the path `keys` in `value`; None if missing. Numbers index lists."""
    for key in keys:
        if isinstance(value, (dict, Mapping)):  # dict first: a test for Mapping is slow
            value = value.get(key)
        elif isinstance(value, (list, tuple)) and key.isdecimal() and len(key) < 8 and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value
