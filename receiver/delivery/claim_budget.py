"""How many claims a runner holds at a time, and when it claims more. Pure: numbers and times are passed in."""

from __future__ import annotations

import math
from typing import Final

from receiver.ledger.deliveries.claimed import Claimed

# Claims held for each place of a sink whose sends take less than FAST seconds, so that no place is empty while the
# ledger commits. They wait about a second at most. Other sinks hold one for each place.
AHEAD: Final = 4
FAST: Final = 0.25
# Deliveries and bytes held at most.
MOST: Final = 1024
MOST_BYTES: Final = 16 << 20
# Bytes of memory for each byte of a parsed body.
PARSED: Final = 4
# Seconds after which a sink claims even with few free places.
CLAIM_AGAIN: Final = 0.25
# Seconds without trouble before more is held than there are places.
CALM: Final = 1.0


def weight(each: Claimed) -> int:
    """Return about how many bytes of memory a held delivery takes."""
    return len(each.body) * (1 + (PARSED if each.run is not None else 0))


class ClaimBudget:
    """The claims that a sink with places for `size` deliveries may hold. All times are those of time.monotonic().

    `rated`: each claim counts the rate. `many_lanes`: each claim counts the lanes. Both hold no more than is under way.
    """

    def __init__(self, size: int, *, rated: bool = False, many_lanes: bool = False) -> None:
        self._size = size
        self._exact = rated or many_lanes
        self._many_lanes = many_lanes
        self._typical = math.inf  # seconds that a send takes, as seen lately
        self._calm_at = -math.inf
        self._claimed_at = -math.inf

    def note_send(self, seconds: float) -> None:
        """Note that a send took `seconds`."""
        self._typical = seconds if self._typical == math.inf else 0.8 * self._typical + 0.2 * seconds

    def note_trouble(self, now: float) -> None:
        """Note that the sink was unavailable `now`."""
        self._calm_at = now + CALM

    def note_claim(self, now: float) -> None:
        """Note that a claim was made `now`."""
        self._claimed_at = now

    def free(self, held: int, weight: int, now: float) -> int:
        """Return how many more deliveries may be held. `weight`: bytes of the held ones."""
        return max(0, self._most(now) - held) if weight < MOST_BYTES else 0

    def claims_at(self, held: int, weight: int, now: float, *, waiting: bool) -> float:
        """Return when to claim due deliveries; infinite: when a send has ended.

        `waiting`: some held deliveries have not started.

        A sink with few free places waits a moment for more, unless it has many lanes: a slow lane must not keep others
        from the places that are free.
        """
        room = self.free(held, weight, now)
        if not room:
            return math.inf
        if self._many_lanes or 2 * room > self._most(now):
            return -math.inf
        return math.inf if waiting else self._claimed_at + CLAIM_AGAIN

    def _most(self, now: float) -> int:
        ahead = 1 if self._exact or self._typical > FAST or now < self._calm_at else AHEAD
        return min(self._size * ahead, MOST)
