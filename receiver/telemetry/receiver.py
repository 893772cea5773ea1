"""The receiver process's metrics for Prometheus. Knows no route, no Redis, no disk: others set the values.

Counting on the hot path is plain integer arithmetic; the Prometheus samples are made at a scrape. Label values are
fixed words (outcomes and stores), so that no request can create new ones.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

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
    """What is shown of a background task. `restarts`: how often it was begun again after an error; `failures`: errors
    of tasks that are not begun again."""

    name: str
    alive: bool
    restarts: int
    failures: int


class ReceiverMetrics(Collector):
    """The counters of one receiver process."""

    def __init__(self) -> None:
        self.requests = dict.fromkeys(OUTCOMES, 0)
        self.request_seconds = Histogram(SECONDS)
        self.events = dict.fromkeys(STORES, 0)
        self.commit_seconds = {store: Histogram(SECONDS) for store in STORES}
        self.commit_events = {store: Histogram(SIZES) for store in STORES}
        self.unreadable = 0
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

    def registry(self) -> CollectorRegistry:
        """Return a new registry with these metrics in it; others may register theirs as well."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """Yield the samples. Called by prometheus_client."""
        yield _counter("runhook_ingest_requests", "Requests to /webhooks by outcome.", "outcome", self.requests)
        yield _histogram(
            "runhook_ingest_request_seconds", "Time from a request's head to its 202.", self.request_seconds
        )
        yield _counter(
            "runhook_ingest_events", "Acknowledged events by the store they were written to.", "store", self.events
        )
        yield _histograms("runhook_commit_seconds", "Duration of a commit.", self.commit_seconds)
        yield _histograms("runhook_commit_events", "Events in a commit.", self.commit_events)
        yield CounterMetricFamily(
            "runhook_ingest_unreadable", "Authentic bodies that could not be read as a run.", self.unreadable
        )
        yield CounterMetricFamily("runhook_spool_drained", "Events moved from the spool to Redis.", self.drained)
        gauges = {
            "runhook_redis_up": ("1 when events go to Redis, 0 when they go to the spool.", self.redis_up),
            "runhook_inbox_events": ("Events in the inbox, as of the last commit or check.", self.inbox_events),
            "runhook_inbox_bytes": ("Approximate bytes of the inbox in Redis.", self.inbox_bytes),
            "runhook_spool_events": ("Events in this process's segments of the spool.", self.spool_events),
            "runhook_spool_bytes": ("Bytes of this process's segments of the spool.", self.spool_bytes),
            "runhook_quarantine_requests": ("Requests in quarantine.", self.quarantine_count),
            "runhook_quarantine_bytes": ("Bytes in quarantine.", self.quarantine_bytes),
            "runhook_held_body_bytes": ("Bytes of requests' bodies in memory.", self.bodies()[0]),
            "runhook_held_requests": ("Requests that are held until a run or a delivery changes.", self.held()),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, float(value))
        connections = GaugeMetricFamily(
            "runhook_connections",
            "HTTP connections: open, and those of them whose request's head or body is not whole.",
            labels=["state"],
        )
        for state, count in self.connections().items():
            connections.add_metric([state], count)
        yield connections
        yield _counter(
            "runhook_submit_refused",
            "Calls of the submit API that were refused for their key, its scopes or its rate.",
            "reason",
            self.submit_refused,
        )
        yield CounterMetricFamily(
            "runhook_bodies_ended", "Bodies that came slowest when there was no room for more.", self.bodies()[1]
        )
        yield _counter(
            "runhook_connections_ended",
            "Connections that were closed because their request came too slowly, or there were too many.",
            "reason",
            self.connections_ended(),
        )
        yield CounterMetricFamily(
            "runhook_quarantine_dropped",
            "Requests that were not put into quarantine, or pushed out of it.",
            self.quarantine_dropped,
        )
        alive = GaugeMetricFamily(
            "runhook_background_alive", "1 while a background task of the receiver runs.", labels=["task"]
        )
        restarts = CounterMetricFamily(
            "runhook_background_restarts", "Background tasks that were begun again after an error.", labels=["task"]
        )
        failures = CounterMetricFamily(
            "runhook_background_failures", "Errors of background tasks that nobody waits for.", labels=["task"]
        )
        for task in self.tasks():
            alive.add_metric([task.name], float(task.alive))
            restarts.add_metric([task.name], task.restarts)
            failures.add_metric([task.name], task.failures)
        yield from (alive, restarts, failures)


def _counter(name: str, text: str, label: str, values: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text)
    family.add_metric([], histogram.buckets(), histogram.sum)
    return family


def _histograms(name: str, text: str, by_store: dict[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=["store"])
    for store, histogram in by_store.items():
        family.add_metric([store], histogram.buckets(), histogram.sum)
    return family
