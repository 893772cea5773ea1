"""Represent a problem, and format durations and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem to show to the operator. `code`: stable. `what`: what is wrong. `todo`: the fix. `note`: not urgent."""

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
    """Return a delay for people: as `ago`, but with two decimals below 10 s."""
    return f"{max(seconds, 0):.2f} s" if seconds < 10 else ago(seconds)


def size(count: float) -> str:
    """Return a number of bytes for people, such as 1.5 MiB."""
    for unit, step in (("GiB", _GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} B"
