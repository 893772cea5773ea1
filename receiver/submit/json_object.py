"""JSON objects of callers and of Skyvern: read, changed and written with the standard library.

Integers of any length, 1.0 and the order of members stay as they are; of a member that is given twice, the last one
counts. Pure.
"""

from __future__ import annotations

import json
import math
from typing import Any


class NotAnObject(ValueError):
    """The text is not a JSON object. `position`: of the mistake, or None for another kind of value."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


def parse_object(text: bytes) -> dict[str, Any]:
    """Return the object in `text`, read as by Skyvern's own parser, but UTF-8 only. Raises NotAnObject."""
    try:
        value = json.loads(text.decode(), parse_float=_finite)
    except json.JSONDecodeError as error:
        raise NotAnObject(error.msg, error.pos) from None
    except UnicodeDecodeError as error:
        raise NotAnObject("not UTF-8", error.start) from None
    except (RecursionError, ValueError):  # nested too deeply, an integer of thousands of digits, or 1e400
        raise NotAnObject("too deep, or a number too long", 0) from None
    if not isinstance(value, dict):
        raise NotAnObject("not an object")
    return value


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError
    return value


def to_bytes(value: Any) -> bytes:
    """Return `value` as JSON text. Where it holds half a character, which UTF-8 cannot have, all others are escaped."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def with_members(text: bytes, **members: Any) -> bytes:
    """Return the object in `text` with these members. Raises NotAnObject."""
    return to_bytes({**parse_object(text), **members})
