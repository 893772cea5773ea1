"""Ids of runs as Skyvern makes them, by number: above 32 bits of who made it stands the second in which it was made."""

from __future__ import annotations

from typing import Final

# The second of run 0, since Skyvern's epoch: in November 2026. Each second has A_SECOND runs.
FIRST: Final = 139_000_000
A_SECOND: Final = 1000


def run_id(number: int) -> str:
    """The id of run `number`, a task."""
    return f"tsk_{FIRST + number // A_SECOND << 32 | number % A_SECOND << 1}"


def number_of(run: str) -> int:
    """The number of a run id made here. Raises ValueError."""
    made = int(run.removeprefix("tsk_"))
    return ((made >> 32) - FIRST) * A_SECOND + ((made & 0xFFFFFFFF) >> 1)
