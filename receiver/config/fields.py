"""The types of single values in the config file: sizes, rates, keys and names. It knows no model.

Pure: a validator takes what YAML or the environment gave and returns the value, or raises ValueError saying what would
be right.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, NamedTuple

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema

from handlers.support.duration import UNITS, reject_bool

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?")
_BYTES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}iB": 1 << (10 * power) for power, letter in enumerate("KMGT", 1)
}
_RATE = re.compile(r"([1-9][0-9]{0,6})\s*/\s*(s|m|h)")
_LISTEN = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]*):)?([0-9]{1,5})")
LOOPBACK: Final = "127.0.0.1"
# What a key begins with that `runhook dev` made to stand in for one of Skyvern's.
LOCAL_KEY: Final = "local-"


class ListenAddress(NamedTuple):
    """Where a server listens. `host`: an IPv6 address has no brackets. `port`: 0 takes a free one."""

    host: str
    port: int


def without_version(url: str) -> str:
    """Return the base URL of Skyvern's API without /v1 or /api/v1, which Skyvern's own settings have and calls add."""
    return url.removesuffix("/api/v1").removesuffix("/v1")


def parse_size(value: object) -> object:
    """Return the bytes of "16MiB" or "500kB". Other types are left to the model. Raises ValueError."""
    if not isinstance(value, str):
        return reject_bool(value)
    match = _SIZE.fullmatch(value.strip())
    if not match:
        raise ValueError("must be a size such as 16MiB, 500kB or a number of bytes")
    return int(float(match[1]) * _BYTES[match[2] or "B"])


def parse_rate(value: str) -> tuple[int, float]:
    """Return how many, in how many seconds: (10, 1.0) for "10/s". Raises ValueError."""
    match = _RATE.fullmatch(value.strip())
    if not match:
        meant = f"{value.strip()}/s" if re.fullmatch(r"[1-9][0-9]{0,6}", value.strip()) else "10/s, 100/m or 1000/h"
        raise ValueError(f"must be a rate such as {meant}")
    return int(match[1]), UNITS[match[2]]


def parse_listen_address(value: object) -> object:
    """Return the ListenAddress of 9000, "9000" (both on 127.0.0.1), "10.0.0.5:9000" or "[::1]:9000". Raises
    ValueError."""
    if isinstance(value, ListenAddress):
        return value
    match = _LISTEN.fullmatch(str(value).strip()) if isinstance(value, int | str) else None
    if not match or int(match[2]) > 65535:
        raise ValueError("must be a port such as 9000, or an address and a port such as 10.0.0.5:9000 or [::1]:9000")
    return ListenAddress((match[1] or LOOPBACK).strip("[]"), int(match[2]))


def _checked_rate(value: object) -> object:
    if isinstance(value, str | int):
        parse_rate(str(value))  # which suggests 10/s for 10
    return value


def _stripped(value: object) -> object:
    """Remove the white space that a file or a shell has put around a key."""
    return value.strip() if isinstance(value, str) else value


def _keys(value: object) -> object:
    """Remove empty keys: "${OLD_KEY:-}" is empty after a rotation."""
    if not isinstance(value, list):
        return value
    keys = [each for each in map(_stripped, value) if each != ""]
    if not keys:
        raise ValueError("has no key in it; without one no signature can be checked")
    return keys


def _optional_key(value: object) -> object:
    """Turn an empty key, such as of "${SKYVERN_API_KEY:-}", into None."""
    return _stripped(value) or None


Whole = Annotated[int, BeforeValidator(reject_bool)]
Number = Annotated[float, BeforeValidator(reject_bool)]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE.pattern}$"}]}),
]
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
