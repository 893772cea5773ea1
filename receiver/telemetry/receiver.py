"""What the receiver process counts. Knows no route, no Redis, no disk: others set the values.

Counting on the hot path is plain integer arithmetic; receiver_samples.py makes Prometheus samples of it at a scrape.
Label values are fixed words (outcomes and stores), so that no request can create new ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0)
SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

# How a request to /webhooks/… ended.
OUTCOMES: Final = (
    "accepted",
    "bad_signature",
    "unknown_source",
    "too_large",
    "disconnected",
    "timed_out",
    "malformed",
    "unavailable",
)
# Why a call of the submit API was refused before it was looked at.
REFUSALS: Final = ("bad_key", "expired", "throttled", "rate", "scope")
STORES: Final = ("redis", "spool")


class Histogram:
    """Counts of observed values by bucket."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0  # of all observed values

    def observe(self, value: float) -> None:
        """Count one value, in the unit of the bounds."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many values up to it) of each bucket, as Prometheus wants them."""
        total, pairs = 0, []
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            total += count
            pairs.append((bound, float(total)))
        return pairs


class BackgroundTask(Protocol):
    """What is shown of a background task. `total`: how often it was started again after an error; `errors`: errors of
    tasks that are not started again."""

    name: str
    alive: bool
    total: int
    errors: int


class ReceiverMetrics:
    """The counters of one receiver process."""

    def __init__(self) -> None:
        self.requests = dict.fromkeys(OUTCOMES, 0)
        self.request_seconds = Histogram(SECONDS)
        self.events = dict.fromkeys(STORES, 0)
        self.commit_seconds = {store: Histogram(SECONDS) for store in STORES}
        self.commit_events = {store: Histogram(SIZES) for store in STORES}
        self.drained = 0
        self.redis_up = False
        self.inbox_events = 0
        self.inbox_bytes = 0
        self.spool_events = 0
        self.spool_bytes = 0
        self.quarantine_count = 0
        self.quarantine_bytes = 0
        self.quarantine_dropped = 0
        self.held: Callable[[], int] = lambda: 0
        self.submit_refused = dict.fromkeys(REFUSALS, 0)
        self.bodies: Callable[[], tuple[int, int]] = lambda: (0, 0)  # bytes that are held, and how many were ended
        self.connections: Callable[[], Mapping[str, int]] = dict
        self.connections_ended: Callable[[], Mapping[str, int]] = dict
        self.tasks: Callable[[], Sequence[BackgroundTask]] = tuple

    def commit(self, store: str, events: int, seconds: float) -> None:
        """Count a commit of `events` events to `store` that took `seconds`."""
        self.events[store] += events
        self.commit_events[store].observe(events)
        self.commit_seconds[store].observe(seconds)
