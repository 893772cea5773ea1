"""What the receiver counts, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from receiver.telemetry.receiver import OUTCOMES, Histogram, ReceiverMetrics, ReceiverSamples


def samples(metrics: ReceiverMetrics) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(ReceiverSamples(metrics))
    text = generate_latest(registry).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 9):
        histogram.observe(value)
    assert histogram.buckets() == [("1", 2.0), ("2", 3.0), ("4", 4.0), ("+Inf", 5.0)]
    assert histogram.sum == 16.0


def test_commits_and_requests_show_by_fixed_words_only() -> None:
    metrics = ReceiverMetrics()
    metrics.commit("redis", 3, 0.002)
    metrics.commit("spool", 1, 0.004)
    metrics.requests["accepted"] += 4
    found = samples(metrics)
    assert found["runhook_ingest_events_total", "redis"] == 3
    assert found["runhook_ingest_events_total", "spool"] == 1
    assert found["runhook_commit_events_count", "redis"] == 1
    assert found["runhook_commit_seconds_bucket", "0.0025", "redis"] == 1 or (
        found["runhook_commit_seconds_bucket", "redis", "0.0025"] == 1
    )
    assert {labels[0] for name, *labels in found if name == "runhook_ingest_requests_total"} == set(OUTCOMES)


def test_the_depths_show_as_they_are_set() -> None:
    metrics = ReceiverMetrics()
    metrics.spool_events, metrics.spool_bytes, metrics.inbox_events, metrics.quarantine_count = 1, 2, 3, 4
    metrics.redis_up = True
    found = samples(metrics)
    wanted = ("spool_events", "spool_bytes", "inbox_events", "quarantine_requests", "redis_up")
    assert [found[f"runhook_{name}",] for name in wanted] == [1, 2, 3, 4, 1]
