"""What has to end by a point in time, unless it has ended before. Pure: the time is passed in.

Nearly all of it ends long before: adding and removing cost next to nothing, and all items are looked at when the time
of one may be over.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

T = TypeVar("T")
# Seconds from one look at all items to the next: so much later than its time an item may be found.
GRAIN: Final = 0.05


class Deadlines(Generic[T]):
    """Items, told apart by identity, with the time by which each must have ended. False when there are none."""

    def __init__(self) -> None:
        self._at: dict[T, float] = {}
        # Before it the time of none is over, or all have been looked at a moment ago.
        self._next = float("inf")

    def __bool__(self) -> bool:
        return bool(self._at)

    def add(self, item: T, at: float) -> None:
        """Add an item that is not there."""
        self._at[item] = at
        if at < self._next:
            self._next = at

    def remove(self, item: T) -> None:
        """Remove an item; one that is not there is no error."""
        self._at.pop(item, None)

    def next(self) -> float:
        """Return when `over` may find something, at the earliest; infinite when there is no item."""
        return self._next if self._at else float("inf")

    def over(self, now: float) -> list[T]:
        """Remove and return the items whose time is over, the earliest first; some of them up to GRAIN later."""
        if now < self._next:
            return []
        found = sorted((item for item, at in self._at.items() if at <= now), key=self._at.__getitem__)
        for item in found:
            del self._at[item]
        self._next = max(min(self._at.values(), default=float("inf")), now + GRAIN)
        return found
