"""Where a list continues, as opaque text: the sort key of the last row that was read."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from typing import Any

import orjson

from receiver.errors import Invalid


def encode(listed: str, position: Sequence[Any] | None) -> str | None:
    """Return the cursor of a position in the list called `listed`; None for None, the end."""
    if position is None:
        return None
    return base64.urlsafe_b64encode(orjson.dumps([listed, *position])).decode().rstrip("=")


def decode(listed: str, cursor: str, kinds: Sequence[type[Any]]) -> tuple[Any, ...] | None:
    """Return the position that `cursor` stands for; None for "", the beginning. `kinds`: of its values.

    Raises Invalid for anything but a cursor of this list.
    """
    if not cursor:
        return None
    try:
        name, *position = _values(cursor)
        if name != listed or len(position) != len(kinds) or not all(map(_fits, position, kinds)):
            raise ValueError
    except (ValueError, TypeError, binascii.Error):
        raise Invalid("after: not a cursor of this list; give `next` of the previous page unchanged") from None
    return tuple(kind(value) if kind is float else value for value, kind in zip(position, kinds, strict=True))


def moment_of(cursor: str) -> float | None:
    """Return the time at which a list in the order of time continues; None for a list in another order.

    `cursor`: one that `encode` returned.
    """
    _, first, *_ = _values(cursor)
    return first if isinstance(first, float) else None


def _values(cursor: str) -> Any:
    return orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))


def _fits(value: Any, kind: type[Any]) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return False
    return isinstance(value, (int, float) if kind is float else kind) and (kind is not float or math.isfinite(value))
