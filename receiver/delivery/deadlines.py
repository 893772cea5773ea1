"""What has to end by a point in time, unless it has ended before. Pure: the time is passed in."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")
# Entries of what has ended that are kept beside as many of what has not, before they are dropped.
_SPARE = 64


class Deadlines(Generic[T]):
    """Items, told apart by identity, with the time by which each must have ended. False when there are none."""

    def __init__(self) -> None:
        # By id, the number of its entry in the heap.
        self._live: dict[int, int] = {}
        # By time and number; also what was removed, until it is dropped.
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._live)

    def add(self, item: T, at: float) -> None:
        """Add an item that is not there."""
        self._live[id(item)] = number = next(self._numbers)
        heapq.heappush(self._heap, (at, number, item))

    def remove(self, item: T) -> None:
        """Remove an item; one that is not there is no error."""
        self._live.pop(id(item), None)
        if len(self._heap) > 2 * len(self._live) + _SPARE:  # what was removed may be large
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapq.heapify(self._heap)

    def next(self) -> float:
        """Return the earliest time; infinite when there is none."""
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def over(self, now: float) -> list[T]:
        """Remove and return the items whose time is over, the earliest first."""
        found = []
        while self.next() <= now:
            item = heapq.heappop(self._heap)[2]
            del self._live[id(item)]
            found.append(item)
        return found

    def _is_live(self, entry: tuple[float, int, T]) -> bool:
        return self._live.get(id(entry[2])) == entry[1]
