"""What the receiver process counts, and its samples for Prometheus. Others set the values.

Counting on the hot path is plain integer arithmetic; the samples are made at a scrape. Label values are fixed words
(outcomes and stores), so that no request can create new ones.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

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
REFUSALS: Final = ("bad_key", "expired", "rate", "scope")
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
        return cumulative([*map(str, self._bounds), "+Inf"], self._counts)


def cumulative(bounds: Sequence[str], counts: Sequence[float]) -> list[tuple[str, float]]:
    """Return each bound with the sum of the counts up to it."""
    return list(zip(bounds, map(float, accumulate(counts)), strict=True))


class ReceiverMetrics:
    """The counters of one receiver process."""

    def __init__(self) -> None:
        self.url = ""  # where it listens; no counter
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
        self.body_bytes: Callable[[], int] = lambda: 0
        self.connections: Callable[[], Mapping[str, int]] = dict
        self.connections_ended: Callable[[], Mapping[str, int]] = dict
        self.tasks: Callable[[], Sequence[Any]] = tuple  # the TaskStates of Background
        # Requests with a signature, which is not checked, to wrong paths: how many, the last path, and when it came.
        self.misdirected = 0
        self.misdirected_path = ""
        self.misdirected_at = 0.0

        # Requests to webhooks that got 503: how many, and when the last came.
        self.refused = 0
        self.refused_at = 0.0

    def count_wrong_path(self, path: str) -> None:
        """Count a request to a wrong path that has a signature: if it is Skyvern's, it does not come again."""
        self.misdirected, self.misdirected_path, self.misdirected_at = self.misdirected + 1, path[:200], time.time()

    def commit(self, store: str, events: int, seconds: float) -> None:
        """Count a commit of `events` events to `store` that took `seconds`."""
        self.events[store] += events
        self.commit_events[store].observe(events)
        self.commit_seconds[store].observe(seconds)


# What is shown of ReceiverMetrics: the label, the name after "runhook_" and the attribute, and the help text.
_COUNTERS: Final = (
    ("outcome", "ingest_requests", "requests", "Requests to /webhooks by outcome."),
    ("store", "ingest_events", "events", "Acknowledged events by the store they were written to."),
    ("reason", "submit_refused", "submit_refused", "Calls of the submit API refused for their key, scopes or rate."),
    ("reason", "connections_ended", "connections_ended", "Connections closed because they were slow, or too many."),
    ("", "misdirected_webhooks", "misdirected", "Requests with a signature, not checked, to wrong paths (404)."),
    ("", "spool_drained", "drained", "Events moved from the spool to Redis."),
    ("", "quarantine_dropped", "quarantine_dropped", "Requests not put into quarantine, or pushed out of it."),
)
_GAUGES: Final = (
    ("", "redis_up", "redis_up", "1 when events go to Redis, 0 when they go to the spool."),
    ("", "inbox_events", "inbox_events", "Events in the inbox, as of the last commit or check."),
    ("", "inbox_bytes", "inbox_bytes", "Approximate bytes of the inbox in Redis."),
    ("", "spool_events", "spool_events", "Events in this process's spool."),
    ("", "spool_bytes", "spool_bytes", "Bytes of this process's spool."),
    ("", "quarantine_requests", "quarantine_count", "Requests in quarantine."),
    ("", "quarantine_bytes", "quarantine_bytes", "Bytes in quarantine."),
    ("", "held_body_bytes", "body_bytes", "Bytes of requests' bodies in memory."),
    ("", "held_requests", "held", "Requests that are held until a run or a delivery changes."),
    ("state", "connections", "connections", "HTTP connections: open, and those with an incomplete request."),
)


class ReceiverSamples(Collector):
    """The samples of `metrics`."""

    def __init__(self, metrics: ReceiverMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Any]:
        """Yield the samples. Called by prometheus_client."""
        counted = self._metrics
        for kind, table in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for label, name, attribute, text in table:
                value = getattr(counted, attribute)
                yield family(kind, name, label, text, value() if callable(value) else value)
        requests = [((), counted.request_seconds.buckets(), counted.request_seconds.sum)]
        yield histogram("ingest_request_seconds", "", "Time from a request's head to its 202.", requests)
        for name, text, of_stores in (
            ("commit_seconds", "Duration of a commit.", counted.commit_seconds),
            ("commit_events", "Events in a commit.", counted.commit_events),
        ):
            rows = [((store,), each.buckets(), each.sum) for store, each in of_stores.items()]
            yield histogram(name, "store", text, rows)
        tasks = counted.tasks()
        for kind, name, attribute, text in (
            (GaugeMetricFamily, "alive", "alive", "1 while a background task of the receiver runs."),
            (CounterMetricFamily, "restarts", "total", "Background tasks that were started again after an error."),
            (CounterMetricFamily, "failures", "errors", "Errors of background tasks without a waiting caller."),
        ):
            values = {task.name: getattr(task, attribute) for task in tasks}
            yield family(kind, f"background_{name}", "task", text, values)


def family(kind: Any, name: str, labels: str, text: str, values: float | Mapping[Any, float]) -> Any:
    """Return the samples of `runhook_<name>`. `labels`: names of labels, separated by spaces; "" for one number.

    `values`: by the label's value, or by a tuple of them.
    """
    samples = kind(f"runhook_{name}", text, labels=labels.split())
    for key, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        samples.add_metric([key] if isinstance(key, str) else key, float(value))
    return samples


def histogram(name: str, label: str, text: str, rows: Iterable[tuple[Sequence[str], Any, float]]) -> Any:
    """Return the histograms of `runhook_<name>`. `rows`: the label's value, cumulative buckets and sum of each."""
    samples = HistogramMetricFamily(f"runhook_{name}", text, labels=label.split())
    for labels, buckets, total in rows:
        samples.add_metric(labels, buckets, total)
    return samples
