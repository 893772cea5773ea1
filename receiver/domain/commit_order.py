"""The order in which rows may be released whose numbers were assigned before their transactions committed.

A row may be seen later than one with a higher number, or never. What follows rows by their numbers must skip none: so
the rows behind a gap wait, until each transaction that could fill it has ended, or for PATIENCE seconds. After that
they are released out of order, and the gap stays open.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

# Seconds for which rows wait behind a gap.
PATIENCE: Final = 2.0
# Rows released behind a gap before it is given up. No transaction lasts that long.
MOST_BEHIND: Final = 20_000


@dataclass(frozen=True, slots=True)
class Told:
    """Rows to release now, in order: `seqs`, of which those up to `settled` have their final place."""

    seqs: Sequence[int]
    settled: int


@dataclass(frozen=True, slots=True)
class CommitOrder:
    """Which rows were released. `low`: no row up to this number is left. `beyond`: released rows above it.

    `holders`: the transactions that could fill gaps up to `top` when they were asked for; None before.
    `since`: when the oldest gap was met, by the caller's clock; None without one.
    """

    low: int
    beyond: frozenset[int] = frozenset()
    top: int = 0
    holders: frozenset[str] | None = None
    since: float | None = field(default=None)

    @property
    def has_gap(self) -> bool:
        """Whether the open transactions must be known to continue."""
        return self.since is not None

    def asked(self, top: int, holders: Collection[str]) -> CommitOrder:
        """Note that `holders` may fill gaps up to `top`. They must have been asked for after `top` was seen."""
        return replace(self, top=top, holders=frozenset(holders))

    def ended(self, holders: Collection[str]) -> bool:
        """Whether none of those that could fill a gap is among `holders`, who are under way now."""
        return self.holders is not None and self.holders.isdisjoint(holders)

    def advance(self, seen: Sequence[int], ended: bool, now: float) -> tuple[CommitOrder, Told]:
        """Return the order after `seen`, and the rows of it to release.

        `seen`: all numbers above `low` that there are, in order, up to a limit. `ended`: what `ended` said before they
        were read.
        """
        proven = self.top if ended else max(self.beyond) if len(self.beyond) > MOST_BEHIND else 0
        low = max(self.low, min(proven, seen[-1] if seen else proven))  # a limit may have cut off what is above
        for seq in seen:
            if seq > low + 1:
                break
            low = max(low, seq)
        gap = bool(seen) and seen[-1] > low
        since = (now if self.since is None or low > self.low else self.since) if gap else None
        hurries = since is not None and now - since >= PATIENCE
        new = [seq for seq in seen if seq not in self.beyond and (hurries or seq <= low)]
        beyond = frozenset(seq for seq in (*self.beyond, *new) if seq > low)
        keeps = gap and not ended and self.holders is not None
        order = CommitOrder(low, beyond, self.top if keeps else 0, self.holders if keeps else None, since)
        return order, Told(new, sum(seq <= low for seq in new))
