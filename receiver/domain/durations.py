"""Format durations for people."""

from __future__ import annotations


def ago(seconds: float) -> str:
    """Return a duration for people: one number and one unit, such as 5 min."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def lasting(since: float | None, now: float) -> str:
    """Return how long something has lasted, as the end of a clause; "" if unknown."""
    return "" if since is None else f", for {ago(now - since)} now"


def after(seconds: float) -> str:
    """Return a delay for people: as `ago`, but with two decimals below 10 s."""
    return f"{max(seconds, 0):.2f} s" if seconds < 10 else ago(seconds)
