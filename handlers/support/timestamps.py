"""Times as ISO 8601 text. Skyvern's are UTC, with or without saying so."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(text: object) -> datetime | None:
    """Parse an ISO 8601 time, which is UTC unless it has an offset. None for what is no such text."""
    moment = _parse(text)
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        return None


def epoch(text: object) -> float | None:
    """Parse an ISO 8601 time into seconds since the epoch; see `utc`."""
    moment = _parse(text)
    return None if moment is None else moment.timestamp()


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
