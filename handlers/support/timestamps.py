"""Times as ISO 8601 text. Skyvern's are UTC, with or without saying so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# A time without a zone becomes one of UTC by its distance from this: `replace` takes three times as long.
_EPOCH_WITHOUT_ZONE: Final = datetime(1970, 1, 1)  # noqa: DTZ001


def utc(text: object) -> datetime | None:
    """Parse an ISO 8601 time, which is UTC unless it has an offset. None for any other value."""
    moment = _parse(text)
    if moment is None:
        return None
    if moment.tzinfo is None:
        return _EPOCH + (moment - _EPOCH_WITHOUT_ZONE)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return None


def epoch(text: object) -> float | None:
    """Parse an ISO 8601 time into seconds since the epoch; see `utc`."""
    moment = _parse(text)
    if moment is None:
        return None
    return (moment - (_EPOCH_WITHOUT_ZONE if moment.tzinfo is None else _EPOCH)).total_seconds()


def iso(seconds: float) -> str:
    """Return seconds since the epoch as an ISO 8601 time in UTC, with Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _parse(text: object) -> datetime | None:
    """Return the time, which may lack a zone."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
