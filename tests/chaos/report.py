"""The figures of a run, as text. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.chaos import bodies
from tests.chaos.bodies import HTTP_SINKS, SINKS
from tests.chaos.verdict import (
    HEALTHY,
    Evidence,
    disturbed,
    doubles,
    first_progress,
    lapsed,
    latencies,
    most_doubles,
    nothing_doubled,
    quantile,
    recovery,
)


def report(found: Evidence) -> str:
    """The figures of a run."""
    return "\n".join([*_ingest(found), "", *_deliveries(found), "", *_recoveries(found), "", *_latencies(found)])


def _ingest(found: Evidence) -> Iterable[str]:
    tries = Counter(status for sent in found.sent for status in sent.statuses)
    lost = sum(sent.lost for sent in found.sent)
    refused = len(found.sent) - len(found.acked)
    again = sum(sent.again for sent in found.sent)
    slowest = max((sent.slowest for sent in found.sent), default=0.0)
    answers = ", ".join(f"{status}: {count}" for status, count in sorted(tries.items()))
    yield f"sent {len(found.sent)} events in {found.loaded:.0f} s of load ({found.rate:g}/s asked)"
    yield f"acked {len(found.acked)}, refused {refused} (three tries failed), sent once more and acked alike {again}"
    yield f"answers {answers}; tries without an answer: {lost}; slowest answer {slowest:.2f} s"


def _deliveries(found: Evidence) -> Iterable[str]:
    doubled, cut_off, most = doubles(found), lapsed(found), most_doubles(found)
    yield f"{'sink':<10}{'must have':>10}{'delivered':>10}{'arrivals':>10}{'doubled':>9}{'lapsed':>9}{'at most':>9}"
    for sink in SINKS:
        wanted = sum(sink in bodies.sinks(sent.number) for sent in found.acked)
        arrived = found.arrived.get(sink, ())
        twice = len(list(nothing_doubled(Evidence(rows={sink: found.rows.get(sink, ())}))))
        again = (doubled[sink], cut_off[sink], most[sink]) if sink in HTTP_SINKS else (twice, cut_off[sink], 0)
        mine = "".join(f"{number:>9}" for number in again)
        yield f"{sink:<10}{wanted:>10}{len({event for event, _ in arrived}):>10}{len(arrived):>10}{mine}"
    yield "doubled: rows in an idempotent sink; requests that came again after they had been answered"
    states = ", ".join(f"{state} {count}" for state, count in sorted(found.states.items()))
    yield f"ledger: {len(found.recorded)} events; deliveries: {states}"


def _recoveries(found: Evidence) -> Iterable[str]:
    yield f"{'fault':<22}{'away':>8}{'work goes on':>14}{'all caught up':>15}   (s; the last two after its return)"
    for fault in found.faults:
        on = max(first_progress(found, fault, sink) for sink in HEALTHY)
        yield f"{fault.name:<22}{fault.back - fault.at:>8.1f}{on:>14.2f}{recovery(found, fault):>15.2f}"


def _latencies(found: Evidence) -> Iterable[str]:
    yield f"{'sent to arrival (ms)':<22}" + "".join(f"{window:>22}" for window in found.windows)
    for sink in ("results", "hook"):
        cells = []
        for window in found.windows:
            times = latencies(found, sink, window)
            cells.append(f"p50 {1000 * quantile(times, 0.5):.0f}  p99 {1000 * quantile(times, 0.99):.0f}")
        yield f"{sink:<22}" + "".join(f"{cell:>22}" for cell in cells)
    for window in found.windows:
        if disturbed(found, window):
            yield f"{window}: not compared, for Redis gave no answer in time, which nobody had taken away"
