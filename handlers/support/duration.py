"""Durations in options of sinks and in the config file: "30s", "5m", "1h", "90d" or a number of seconds. Pure."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """Return the seconds of "90d", "1h", "5m" or "30s". Other types are returned unchanged. Raises ValueError."""
    if not isinstance(value, str):
        return reject_bool(value)
    match = _DURATION.fullmatch(value.strip())
    if not match:
        raise ValueError("must be a duration such as 30s, 5m, 1h, 90d or a number of seconds")
    return float(match[1]) * UNITS[match[2] or "s"]


def reject_bool(value: object) -> object:
    """Return `value`. Raises ValueError for booleans, which pydantic would read as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


# The seconds of a duration, as a number.
Seconds = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^{_DURATION.pattern}$"}]}
    ),
]
