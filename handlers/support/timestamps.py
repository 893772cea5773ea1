"""Times as ISO 8601 text. Skyvern's are UTC, with or without an offset."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def utc(text: object) -> datetime | None:
    """Parse an ISO 8601 time, which is UTC unless it has an offset. None for any other value."""
    moment = _parse(text)
    try:
        return moment and moment.astimezone(UTC)
    except OverflowError:
        return None


def epoch(text: object) -> float | None:
    """Parse an ISO 8601 time into seconds since the epoch; see `utc`."""
    moment = _parse(text)
    return None if moment is None else (moment - _EPOCH).total_seconds()


def iso(seconds: float) -> str:
    """Return seconds since the epoch as an ISO 8601 time in UTC, with Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _parse(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
