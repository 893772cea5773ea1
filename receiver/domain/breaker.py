"""The breaker of a lane, as a pure function of its state and the answers to the last attempts.

    closed ──(THRESHOLD unavailable in a row)──▶ open ──(its time is up)──▶ probing ──accepted──▶ closed
                                                   ▲                           │
                                                   └────────unavailable────────┘  (later and later, capped)

While it is not closed, deliveries wait without spending attempts. A refusal is an answer: the sink is there. Probes of
a lane that stays shut grow apart with the time that it has been: a tenth of that is what an outage may be prolonged by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

# Unavailable answers in a row that open the breaker.
THRESHOLD = 5
# Seconds before the first probe, and the maximum before later ones while the lane has not been shut for long.
FIRST, LONGEST = 2.0, 60.0
# The share of its shut time after which a lane is probed again, and the maximum in seconds.
IDLE_SHARE, LONGEST_IDLE = 0.1, 1800.0


@dataclass(frozen=True, slots=True)
class Lane:
    """What one breaker guards: a sink, or one destination of a sink that has many.

    `breaker`: closed, open or probing. `failures`: unavailable answers in a row. `until`: no probe before then
    (seconds since the epoch). `paused`: by an operator, which no answer changes, at `paused_at`. `opened_at`: since
    when it has not been closed, or resumed by an operator; 0.0 while it is closed.
    """

    lane: str
    sink: str
    paused: bool = False
    breaker: str = "closed"
    failures: int = 0
    until: float = 0.0
    reason: str = ""
    paused_at: float = 0.0
    opened_at: float = 0.0


class Observation(NamedTuple):
    """What one attempt says about its lane. `retry_after`: seconds that the sink asked for."""

    available: bool
    reason: str = ""
    retry_after: float | None = None


def cooldown(failures: int, shut_for: float = 0.0) -> float:
    """Return the seconds until the next probe, after `failures` unavailable answers in a row in `shut_for` seconds."""
    soon = min(FIRST * 2.0 ** min(max(failures - THRESHOLD, 0), 16), LONGEST)
    return max(soon, min(shut_for * IDLE_SHARE, LONGEST_IDLE))


def shut_since(lane: Lane, now: float) -> float:
    """Return since when a lane that is not closed counts as shut, at a probe that begins `now`.

    Time without due probes does not count: workers were stopped, or it was paused.
    """
    late = max(now - lane.until, 0.0) if lane.until else 0.0
    return min(lane.opened_at + late, now) if lane.opened_at else 0.0


def after(lane: Lane, answers: Iterable[Observation], now: float) -> Lane:
    """Return the lane after `answers`, in the order in which they came."""
    for available, reason, retry_after in answers:
        if available:
            lane = replace(lane, breaker="closed", failures=0, until=0.0, reason="", opened_at=0.0)
            continue
        # A batch that fails as one is one sign of trouble once the breaker is open, not a hundred.
        failures = lane.failures if lane.breaker == "open" else lane.failures + 1
        lane = replace(lane, failures=failures, reason=reason)
        if lane.breaker == "probing" or failures >= THRESHOLD:
            opened_at = lane.opened_at or now
            wait = max(cooldown(failures, now - opened_at), min(retry_after or 0.0, LONGEST))
            lane = replace(lane, breaker="open", until=now + wait, opened_at=opened_at)
    return lane
