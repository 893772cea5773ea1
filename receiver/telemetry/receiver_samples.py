"""The receiver process's counters as samples for Prometheus, made at a scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from receiver.telemetry.receiver import Histogram, ReceiverMetrics


class ReceiverSamples(Collector):
    """The samples of `metrics`."""

    def __init__(self, metrics: ReceiverMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """Yield the samples. Called by prometheus_client."""
        counted = self._metrics
        yield _counter("runhook_ingest_requests", "Requests to /webhooks by outcome.", "outcome", counted.requests)
        yield _histogram(
            "runhook_ingest_request_seconds", "Time from a request's head to its 202.", counted.request_seconds
        )
        yield _counter(
            "runhook_ingest_events", "Acknowledged events by the store they were written to.", "store", counted.events
        )
        yield _histograms("runhook_commit_seconds", "Duration of a commit.", counted.commit_seconds)
        yield _histograms("runhook_commit_events", "Events in a commit.", counted.commit_events)
        yield CounterMetricFamily("runhook_spool_drained", "Events moved from the spool to Redis.", counted.drained)
        gauges = {
            "runhook_redis_up": ("1 when events go to Redis, 0 when they go to the spool.", counted.redis_up),
            "runhook_inbox_events": ("Events in the inbox, as of the last commit or check.", counted.inbox_events),
            "runhook_inbox_bytes": ("Approximate bytes of the inbox in Redis.", counted.inbox_bytes),
            "runhook_spool_events": ("Events in this process's segments of the spool.", counted.spool_events),
            "runhook_spool_bytes": ("Bytes of this process's segments of the spool.", counted.spool_bytes),
            "runhook_quarantine_requests": ("Requests in quarantine.", counted.quarantine_count),
            "runhook_quarantine_bytes": ("Bytes in quarantine.", counted.quarantine_bytes),
            "runhook_held_body_bytes": ("Bytes of requests' bodies in memory.", counted.bodies()[0]),
            "runhook_held_requests": ("Requests that are held until a run or a delivery changes.", counted.held()),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, float(value))
        connections = GaugeMetricFamily(
            "runhook_connections",
            "HTTP connections: open, and those of them whose request's head or body is not whole.",
            labels=["state"],
        )
        for state, count in counted.connections().items():
            connections.add_metric([state], count)
        yield connections
        yield _counter(
            "runhook_submit_refused",
            "Calls of the submit API that were refused for their key, its scopes or its rate.",
            "reason",
            counted.submit_refused,
        )
        yield CounterMetricFamily(
            "runhook_bodies_ended", "Bodies that came slowest when there was no room for more.", counted.bodies()[1]
        )
        yield _counter(
            "runhook_connections_ended",
            "Connections that were closed because their request came too slowly, or there were too many.",
            "reason",
            counted.connections_ended(),
        )
        yield CounterMetricFamily(
            "runhook_quarantine_dropped",
            "Requests that were not put into quarantine, or pushed out of it.",
            counted.quarantine_dropped,
        )
        alive = GaugeMetricFamily(
            "runhook_background_alive", "1 while a background task of the receiver runs.", labels=["task"]
        )
        restarts = CounterMetricFamily(
            "runhook_background_restarts", "Background tasks that were begun again after an error.", labels=["task"]
        )
        failures = CounterMetricFamily(
            "runhook_background_failures", "Errors of background tasks without a waiting caller.", labels=["task"]
        )
        for task in counted.tasks():
            alive.add_metric([task.name], float(task.alive))
            restarts.add_metric([task.name], task.total)
            failures.add_metric([task.name], task.errors)
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
