"""When to look again for runs to index: at once while few change, when a batch is together while many do. Pure.

Each batch writes the rows of common words anew, and is a transaction, however few runs it has: of 64 runs a second, one
costs half as much again as in batches of 256.
"""

from __future__ import annotations

from typing import Final

# Changed runs a second up to which each look is at once.
FEW: Final = 32.0
# Of a batch: so much is waited for, lest it be full and a small one follow.
MOST: Final = 0.9
# Seconds between two looks at the most.
LONGEST: Final = 2.5


def pause(changed: int, seconds: float, batch: int) -> float:
    """Return the seconds until the next look is worth its while, after one that found so many runs that had changed
    within so many seconds. `batch`: the runs of a full batch."""
    if changed <= FEW * seconds:
        return 0.0
    return min(LONGEST, MOST * batch * seconds / changed)


class Pace:
    """What one clock knows of how many runs change. Times are of any clock that only goes forward."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._looked_at: float | None = None
        self._until = 0.0

    def note(self, now: float, changed: int | None) -> None:
        """Note that a look has ended now. `changed`: runs that it found to have changed; None when more is to be done
        at once."""
        since = self._looked_at
        self._looked_at = now
        self._until = now if changed is None or since is None else now + pause(changed, now - since, self._batch)

    def waits(self, now: float) -> bool:
        """Whether it is too soon for another look."""
        return self._looked_at is not None and now < self._until
