"""The types of single values in the config file: sizes, durations, rates, keys and names. It knows no model.

Pure: a validator takes what YAML or the environment gave and returns the value, or raises ValueError saying what would
be right.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, NamedTuple

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?")
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}iB": 1 << (10 * power) for power, letter in enumerate("KMGT", 1)
}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(r"([1-9][0-9]{0,6})\s*/\s*(s|m|h)")
_LISTEN = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):)?([0-9]{1,5})")
LOOPBACK: Final = "127.0.0.1"


class ListenAddress(NamedTuple):
    """Where a server listens. `host`: an IPv6 address has no brackets. `port`: 0 takes a free one."""

    host: str
    port: int


def parse_size(value: object) -> object:
    """Return the bytes of "16MiB" or "500kB". What is no string is left to the model. Raises ValueError."""
    if not isinstance(value, str):
        return reject_bool(value)
    found = _SIZE.fullmatch(value.strip())
    if not found:
        raise ValueError("must be a size such as 16MiB, 500kB or a number of bytes")
    return int(float(found[1]) * _BYTES[found[2] or "B"])


def parse_duration(value: object) -> object:
    """Return the seconds of "90d", "1h", "5m" or "30s". What is no string is left to the model. Raises ValueError."""
    if not isinstance(value, str):
        return reject_bool(value)
    found = _DURATION.fullmatch(value.strip())
    if not found:
        raise ValueError("must be a duration such as 30s, 5m, 1h, 90d or a number of seconds")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def parse_rate(value: str) -> tuple[int, float]:
    """Return how many, in how many seconds: (10, 1.0) for "10/s". Raises ValueError."""
    found = _RATE.fullmatch(value.strip())
    if not found:
        raise ValueError("must be a rate such as 10/s, 100/m or 1000/h")
    return int(found[1]), _SECONDS[found[2]]


def parse_listen_address(value: object) -> object:
    """Return the ListenAddress of 9000, "9000" (both on 127.0.0.1), "10.0.0.5:9000" or "[::1]:9000". Raises
    ValueError."""
    if isinstance(value, ListenAddress):
        return value
    found = _LISTEN.fullmatch(str(value).strip()) if isinstance(value, int | str) else None
    if not found or int(found[2]) > 65535:
        raise ValueError("must be a port such as 9000, or an address and a port such as 10.0.0.5:9000 or [::1]:9000")
    return ListenAddress((found[1] or LOOPBACK).strip("[]"), int(found[2]))


def reject_bool(value: object) -> object:
    """Return `value`, unless it is true or false, which pydantic would take for 1 and 0. Raises ValueError."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _checked_rate(value: object) -> object:
    if isinstance(value, str):
        parse_rate(value)
    return value


def _stripped(value: object) -> object:
    """Remove the white space that a file or a shell has put around a key."""
    return value.strip() if isinstance(value, str) else value


def _keys(value: object) -> object:
    """Remove empty keys: "${OLD_KEY:-}" is no key once the rotation is over."""
    if not isinstance(value, list):
        return value
    keys = [each for each in map(_stripped, value) if each != ""]
    if not keys:
        raise ValueError("has no key in it; without one no signature can be checked")
    return keys


def _number_or_text(kind: str, pattern: re.Pattern[str], minimum: int) -> WithJsonSchema:
    return WithJsonSchema(
        {"anyOf": [{"type": kind, "minimum": minimum}, {"type": "string", "pattern": f"^{pattern.pattern}$"}]}
    )


def _optional_key(value: object) -> object:
    """Turn an empty key, such as of "${SKYVERN_API_KEY:-}", into None."""
    return _stripped(value) or None


Whole = Annotated[int, BeforeValidator(reject_bool)]
Number = Annotated[float, BeforeValidator(reject_bool)]
Size = Annotated[int, BeforeValidator(parse_size), _number_or_text("integer", _SIZE, 0)]
Seconds = Annotated[float, BeforeValidator(parse_duration), _number_or_text("number", _DURATION, 0)]
Rate = Annotated[
    str, BeforeValidator(_checked_rate), WithJsonSchema({"type": "string", "pattern": f"^{_RATE.pattern}$"})
]
Listen = Annotated[
    ListenAddress,
    BeforeValidator(parse_listen_address),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 65535},
                {"type": "string", "pattern": f"^{_LISTEN.pattern}$"},
            ]
        }
    ),
]
Keys = Annotated[list[SecretStr], BeforeValidator(_keys)]
OptionalKey = Annotated[SecretStr | None, BeforeValidator(_optional_key)]
# Names of sources and sinks, which are used in URLs, queue names, metrics and templates.
Name = Annotated[str, Field(pattern=NAME)]
