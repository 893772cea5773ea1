"""/metrics: the receiver's own counters, the workers' from Redis, and the ledger's state, in Prometheus' text format.

What Redis and the ledger reply is reused for some seconds, so that no client can turn requests into load on them.
While one of them is down, its samples are missing, and `runhook_ledger_up` or `runhook_tally_up` is 0. All of it is for
operators alone (receiver.web.part).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import product
from typing import Any, Final, get_args

import redis.asyncio
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from receiver.domain import parts
from receiver.domain.deduplication import Disposition
from receiver.domain.parts import PartSeen
from receiver.ledger import Ledger, LedgerUnavailable, words
from receiver.ledger.deliveries import orphans
from receiver.ledger.stats import COUNT_LIMIT, COUNTED, Gauges, read
from receiver.runtime.redis_client import connect_async
from receiver.status import board
from receiver.telemetry import workers
from receiver.telemetry.receiver import ReceiverSamples
from receiver.web.health import LEDGER_WITHIN
from receiver.web.part import Context, WebPart

# Seconds for which the replies of Redis and the ledger are reused.
FRESH_FOR: Final = 5.0
DISPOSITIONS: Final = (*get_args(Disposition), "unreadable")
BREAKER: Final = {"closed": 0, "probing": 1, "open": 2}


class PolledMetrics(Collector):
    """The ledger's and the workers' samples as of the last poll; None for a server that was unavailable."""

    def __init__(self, sinks: list[str], routes: list[str], sources: list[str]) -> None:
        self._sinks = sinks
        self._routes = routes
        self._sources = sources
        self.gauges: Gauges | None = None
        self.counts: dict[str, workers.SinkCounts] | None = None
        self.dispatched = workers.DispatchCounts()
        self.parts: list[PartSeen] | None = None
        self.polled_at = float("-inf")

    def collect(self) -> Iterator[Any]:
        """Yield the samples. Called by prometheus_client."""
        yield GaugeMetricFamily("runhook_ledger_up", "1 when the ledger answers.", float(self.gauges is not None))
        yield GaugeMetricFamily(
            "runhook_tally_up", "1 when Redis answers with the workers' counters.", float(self.counts is not None)
        )
        if self.parts is not None:
            alive = Counter(seen.beat.part for seen in self.parts if seen.alive)
            expected = {part: alive[part] for part in parts.expected(self._sinks)}
            yield _gauge("runhook_parts_alive", "Processes that are alive, by part.", "part", expected)
        if self.gauges is not None:
            yield from self._ledger(self.gauges)
        if self.counts is not None:
            yield from self._workers(self.counts)
            yield from self._dispatchers(self.dispatched)

    def _ledger(self, gauges: Gauges) -> Iterator[Any]:
        now, counts, lanes = gauges.read_at, gauges.counts, gauges.lanes
        yield _filled(
            GaugeMetricFamily(
                "runhook_deliveries",
                f"Deliveries that are not delivered, by state, counted up to {COUNT_LIMIT}.",
                labels=["sink", "state"],
            ),
            {(sink, state.value): counts.get((sink, state.value), 0) for sink, state in product(self._sinks, COUNTED)},
        )
        yield _gauge(
            "runhook_oldest_due_seconds",
            "For how long the oldest delivery waits beyond its time.",
            "sink",
            {sink: max(0.0, now - gauges.oldest_due.get(sink, now)) for sink in self._sinks},
        )
        yield _gauge(
            "runhook_breaker",
            "State of the sink's breaker: 0 closed, 1 probing, 2 open; of several lanes the worst.",
            "sink",
            {sink: BREAKER.get(lanes[sink].breaker, 0) if sink in lanes else 0 for sink in self._sinks},
        )
        paused = {sink: sink in lanes and lanes[sink].paused for sink in self._sinks}
        yield _gauge("runhook_sink_paused", "1 when an operator paused the sink.", "sink", paused)
        lost = orphans.orphaned(counts, self._sinks).values()
        yield GaugeMetricFamily(
            "runhook_deliveries_orphaned",
            "Pending deliveries of sinks that are not in the config.",
            float(sum(sum(states.values()) for states in lost)),
        )
        yield _gauge(
            "runhook_ledger_cancelled",
            "Cancellations in a row, for time, of an operation on the ledger.",
            "operation",
            {each.operation: each.times for each in gauges.cancelled},
        )
        if gauges.newest_event is not None:
            yield GaugeMetricFamily(
                "runhook_last_event_timestamp_seconds",
                "When the ledger recorded its newest event.",
                gauges.newest_event,
            )
        yield GaugeMetricFamily(
            "runhook_search_behind_seconds",
            "For how long the oldest change of a run has waited to be indexed for searches.",
            gauges.search.behind(now),
        )
        yield GaugeMetricFamily(
            "runhook_search_unindexed",
            f"Changes of runs that are not indexed for searches yet, up to {words.COUNT_LIMIT}.",
            gauges.search.unindexed,
        )
        watches = {watch.source: watch for watch in gauges.watches}
        yield _gauge(
            "runhook_watch_walked_timestamp_seconds",
            "When Skyvern's list was last read to its end; 0: never.",
            "source",
            {name: watches[name].walked_at or 0.0 if name in watches else 0.0 for name in self._sources},
        )
        yield _gauge(
            "runhook_watch_gap_timestamp_seconds",
            "When Skyvern's list last ended too early, so that runs may be missing; 0: never.",
            "source",
            {name: watches[name].gap_at or 0.0 if name in watches else 0.0 for name in self._sources},
        )
        yield _gauge(
            "runhook_schedules_missed",
            "Schedules that started no run when they should have last.",
            "source",
            {name: gauges.missed.get(name, 0) for name in self._sources},
        )

    def _workers(self, found: dict[str, workers.SinkCounts]) -> Iterator[Any]:
        attempts = CounterMetricFamily("runhook_attempts", "Delivery attempts by outcome.", labels=["sink", "outcome"])
        seconds = HistogramMetricFamily("runhook_attempt_seconds", "Duration of a delivery attempt.", labels=["sink"])
        for sink in self._sinks:
            counts = found.get(sink, workers.SinkCounts())
            for outcome, count in sorted(counts.outcomes.items()):
                attempts.add_metric([sink, outcome], count)
            seconds.add_metric([sink], counts.cumulative(), counts.seconds)
        yield from (attempts, seconds)

    def _dispatchers(self, found: workers.DispatchCounts) -> Iterator[Any]:
        events = {each: found.events.get(each, 0) for each in DISPOSITIONS}
        yield _counter("runhook_events", "Events recorded in the ledger, by disposition.", "disposition", events)
        failed = {route: found.unevaluated.get(route, 0) for route in self._routes}
        yield _counter("runhook_rule_errors", "Rules that could not be evaluated on an event.", "route", failed)
        yield CounterMetricFamily("runhook_events_unrouted", "Events that matched no route.", value=found.unrouted)
        yield CounterMetricFamily(
            "runhook_inbox_set_aside", "Entries of the inbox that were set aside.", value=found.aside
        )


def _filled(family: Any, values: Mapping[Any, float]) -> Any:
    """Return `family` with a sample of each value. The keys are the values of its labels."""
    for key, value in values.items():
        family.add_metric([key] if isinstance(key, str) else key, value)
    return family


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Any:
    return _filled(GaugeMetricFamily(name, text, labels=[label]), values)


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Any:
    return _filled(CounterMetricFamily(name, text, labels=[label]), values)


def metrics(context: Context) -> WebPart:
    """Return the route /metrics."""
    ledger = Ledger(context.settings.database_url)
    client = connect_async(context.settings.redis_url, timeout=1.0, connect_timeout=1.0, retries=1)
    state = PolledMetrics(
        context.config.destinations, [route.name for route in context.config.routes], list(context.config.sources)
    )
    registry = CollectorRegistry()
    for collector in (ReceiverSamples(context.metrics), state):
        registry.register(collector)
    lock = asyncio.Lock()

    async def poll() -> None:
        state.parts = state.gauges = state.counts = None
        with suppress(LedgerUnavailable):
            state.parts = await asyncio.to_thread(board.every, ledger, LEDGER_WITHIN)
            state.gauges = await asyncio.to_thread(ledger.read, read, LEDGER_WITHIN)
        with suppress(redis.RedisError):
            await count()
        state.polled_at = time.monotonic()

    async def count() -> None:
        state.dispatched = workers.parse_dispatch(await client.hgetall(workers.DISPATCH_KEY))
        state.counts = workers.parse(await client.hgetall(workers.KEY))

    async def serve(request: Request) -> Response:
        await context.access.require(request)
        async with lock:
            if time.monotonic() - state.polled_at > FRESH_FOR:
                await poll()
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        await client.aclose()
        ledger.close()

    return WebPart(admin=[Route("/metrics", serve)], lifespan=lifespan)
