"""A problem as a value, and how durations, sizes and counts are told in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from receiver.domain.breaker import Lane
from receiver.ledger.stats import COUNT_LIMIT

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Problem:
    """`code`: a fixed word. `what`: what is wrong; `todo`: what to do. `note`: it needs nobody at once."""

    code: str
    what: str
    todo: str
    note: bool = False


def ago(seconds: float) -> str:
    """Return a duration for people: one number and one unit, such as 5 min."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def after(seconds: float) -> str:
    """Return how long after another thing something came: as `ago`, but below 10 s to the hundredth."""
    return f"{max(seconds, 0):.2f} s" if seconds < 10 else ago(seconds)


def size(count: float) -> str:
    """Return a count of bytes for people."""
    for unit, step in (("GiB", _GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} B"


def amount(count: int) -> str:
    """Return a count of deliveries in words: beyond COUNT_LIMIT nobody counts."""
    return f"{COUNT_LIMIT} or more" if count >= COUNT_LIMIT else str(count)


def probe_time(lane: Lane, now: float) -> str:
    """Return in words when a shut lane is probed next."""
    return f"in {ago(lane.until - now)}" if lane.until > now else "due"
