"""The breaker of a lane, as a pure function of its state and the answers to the last attempts.

    closed ──(THRESHOLD unavailable in a row)──▶ open ──(its time is up)──▶ probing ──accepted──▶ closed
                                                   ▲                           │
                                                   └────────unavailable────────┘  (twice as long, capped)

While it is not closed, deliveries wait without spending attempts. A refusal is an answer: the sink is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

# Unavailable answers in a row that open the breaker.
THRESHOLD = 5
# Seconds before the first probe, and before each one at the most.
FIRST, LONGEST = 2.0, 60.0


@dataclass(frozen=True, slots=True)
class Lane:
    """What one breaker guards: a sink, or one destination of a sink that has many.

    `breaker`: closed, open or probing. `failures`: unavailable answers in a row. `until`: no probe before then
    (seconds since the epoch). `paused`: by an operator, which no answer changes, at `paused_at`.
    """

    lane: str
    sink: str
    paused: bool = False
    breaker: str = "closed"
    failures: int = 0
    until: float = 0.0
    reason: str = ""
    paused_at: float = 0.0


class Observation(NamedTuple):
    """What one attempt says about its lane. `retry_after`: seconds that the sink asked for."""

    available: bool
    reason: str = ""
    retry_after: float | None = None


def cooldown(failures: int) -> float:
    """Return the seconds until the next probe, after `failures` unavailable answers in a row."""
    return min(FIRST * 2.0 ** min(max(failures - THRESHOLD, 0), 16), LONGEST)


def after(lane: Lane, answers: Iterable[Observation], now: float) -> Lane:
    """Return the lane after `answers`, in the order in which they came."""
    for available, reason, retry_after in answers:
        if available:
            lane = replace(lane, breaker="closed", failures=0, until=0.0, reason="")
            continue
        # A batch that fails as one is one sign of trouble once the breaker is open, not a hundred.
        failures = lane.failures if lane.breaker == "open" else lane.failures + 1
        lane = replace(lane, failures=failures, reason=reason)
        if lane.breaker == "probing" or failures >= THRESHOLD:
            wait = max(cooldown(failures), min(retry_after or 0.0, LONGEST))
            lane = replace(lane, breaker="open", until=now + wait)
    return lane
