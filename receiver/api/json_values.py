"""What a payload holds as values that every JSON reader takes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

# Levels of a value, beyond which a text stands for the rest: serialisers give up at 255.
MAX_DEPTH: Final = 200
# Integers beyond these are texts: many readers make doubles of them.
_LARGEST: Final = 2**63


def json_safe(value: Any, depth: int = 0) -> Any:
    """Return `value` without what breaks readers: lone surrogates, numbers that are none, huge integers, depth."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -_LARGEST <= value < _LARGEST else _digits(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth >= MAX_DEPTH:
        return "… deeper than is shown"
    if isinstance(value, Mapping):
        return {json_safe(str(name)): json_safe(each, depth + 1) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(each, depth + 1) for each in value]
    return str(value)


def _digits(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # of more digits than Python prints
        return f"an integer of {value.bit_length()} bits"
