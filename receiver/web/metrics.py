"""/metrics: the receiver's own counters, the workers' from Redis, and the ledger's state, in Prometheus' text format.

What Redis, the ledger and the checks reply is reused for some seconds, so that no client can turn requests into load on
them. While Redis or the ledger is down, its samples are missing, and `runhook_ledger_up` or `runhook_tally_up` is 0.
All of it is for operators alone (receiver.web.component).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import product, starmap
from typing import Any, Final, get_args

import redis.asyncio
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from handlers.support.daemon_pool import in_thread
from receiver import __version__
from receiver.checks import board
from receiver.checks.finding import FAULTS
from receiver.checks.registry import find
from receiver.checks.survey import survey
from receiver.config.settings import Settings
from receiver.domain import liveness
from receiver.domain.deduplication import Disposition
from receiver.domain.liveness import SeenProcess
from receiver.ledger import Connection, Ledger, LedgerUnavailable, polls
from receiver.ledger.lists import words
from receiver.ledger.stats import COUNT_LIMIT, COUNTED, Gauges, orphaned, read
from receiver.runtime.redis_client import connect_async
from receiver.telemetry import workers
from receiver.telemetry.receiver import ReceiverSamples, cumulative, family, histogram
from receiver.web.component import Context, WebComponent
from receiver.web.health import LEDGER_WITHIN

# Seconds for which the replies of Redis and the ledger are reused.
FRESH_FOR: Final = 5.0
# Seconds for which the findings of the checks are reused: they read more than all other metrics.
CHECKED_FOR: Final = 15.0
# Seconds after which they are too old to be shown: a server that does not answer holds the checks up.
KEPT_FOR: Final = 120.0
DISPOSITIONS: Final = (*get_args(Disposition), "unreadable")
OUTCOMES: Final = ("accepted", "refused", "unavailable", "error")
BREAKER: Final = {"closed": 0, "probing": 1, "open": 2}

log = logging.getLogger("runhook.web")

gauge: Final = partial(family, GaugeMetricFamily)
counter: Final = partial(family, CounterMetricFamily)


class PolledMetrics(Collector):
    """The ledger's and the workers' samples as of the last poll; None for a server that was unavailable."""

    def __init__(self, sinks: list[str], routes: list[str], sources: list[str]) -> None:
        self._sinks = sinks
        self._routes = routes
        self._sources = sources
        self.gauges: Gauges | None = None
        self.counts: Mapping[tuple[str, ...], float] | None = None
        self.processes: list[SeenProcess] | None = None
        self.due_polls: Mapping[str, int] = {}
        self.problems: Mapping[str, int] | None = None
        self.polled_at = float("-inf")

    def collect(self) -> Iterator[Any]:
        """Yield the samples. Called by prometheus_client."""
        yield gauge("build_info", "version", "1, with Runhook's version.", {__version__: 1})
        if self.problems is not None:
            of_problems = "Problems that `runhook status` shows, by code."
            yield gauge("problems", "code", of_problems, {code: self.problems.get(code, 0) for code in FAULTS})
        yield gauge("ledger_up", "", "1 when the ledger answers.", self.gauges is not None)
        yield gauge("tally_up", "", "1 when Redis answers with the workers' counters.", self.counts is not None)
        if self.processes is not None:
            alive = Counter(seen.beat.role for seen in self.processes if seen.alive)
            expected = {role: alive[role] for role in liveness.expected(self._sinks)}
            yield gauge("parts_alive", "part", "Processes that are alive, by part.", expected)
        if self.gauges is not None:
            for row in self._of_sinks(self.gauges), self._of_ledger(self.gauges), self._of_sources(self.gauges):
                yield from starmap(gauge, row)
        if self.counts is not None:
            yield from self._of_workers(self.counts)

    def _of_sinks(self, gauges: Gauges) -> list[Any]:
        now, counts, lanes, sinks = gauges.read_at, gauges.counts, gauges.lanes, self._sinks
        pending = {(sink, state.value): counts.get((sink, state.value), 0) for sink in sinks for state in COUNTED}
        late = {sink: max(0.0, now - gauges.oldest_due.get(sink, now)) for sink in sinks}
        shut = {sink: BREAKER.get(lanes[sink].breaker, 0) if sink in lanes else 0 for sink in sinks}
        paused = {sink: sink in lanes and lanes[sink].paused for sink in sinks}
        of_states = f"Deliveries that are not delivered, by state, counted up to {COUNT_LIMIT}."
        of_breakers = "State of the sink's breaker: 0 closed, 1 probing, 2 open; of several lanes the worst."
        return [
            ("deliveries", "sink state", of_states, pending),
            ("oldest_due_seconds", "sink", "For how long the oldest delivery waits beyond its time.", late),
            ("breaker", "sink", of_breakers, shut),
            ("sink_paused", "sink", "1 when an operator paused the sink.", paused),
        ]

    def _of_ledger(self, gauges: Gauges) -> list[Any]:
        lost = orphaned(gauges.counts, self._sinks).values()
        count = sum(sum(states.values()) for states in lost)
        cancelled = {each.operation: each.times for each in gauges.cancelled}
        behind = gauges.search.behind(gauges.read_at)
        of_words = "For how long the oldest change of a run has waited to be indexed for searches."
        of_changes = f"Changes of runs that are not indexed for searches yet, up to {words.COUNT_LIMIT}."
        newest = ("last_event_timestamp_seconds", "", "When the ledger recorded its newest event.", gauges.newest_event)
        return [
            ("deliveries_orphaned", "", "Pending deliveries of sinks that are not in the config.", count),
            ("ledger_cancelled", "operation", "Cancellations in a row, for time, of an operation.", cancelled),
            ("search_behind_seconds", "", of_words, behind),
            ("search_unindexed", "", of_changes, gauges.search.unindexed),
            *([newest] if gauges.newest_event is not None else []),
        ]

    def _of_sources(self, gauges: Gauges) -> list[Any]:
        watches = {watch.source: watch for watch in gauges.watches}
        walked, gaps = dict[str, float](), dict[str, float]()
        for name in self._sources:
            watch = watches.get(name)
            walked[name], gaps[name] = (watch.walked_at or 0.0, watch.gap_at or 0.0) if watch else (0.0, 0.0)
        of_gaps = "When Skyvern's list last ended too early, so that runs may be missing; 0: never."
        of_walks = "When Skyvern's list was last read to its end; 0: never."
        of_polls = f"Polls of Skyvern's API that are due and not sent, counted up to {COUNT_LIMIT}."
        return [
            ("watch_walked_timestamp_seconds", "source", of_walks, walked),
            ("watch_gap_timestamp_seconds", "source", of_gaps, gaps),
            ("polls_due", "source", of_polls, {name: self.due_polls.get(name, 0) for name in self._sources}),
        ]

    def _of_workers(self, counts: Mapping[tuple[str, ...], float]) -> Iterator[Any]:
        def of(name: str, labels: Sequence[str]) -> dict[str, float]:
            return {label: counts.get((name, label), 0) for label in labels}

        of_sinks = product(["attempts"], self._sinks, OUTCOMES)
        attempts = {key[1:]: counts[key] for key in of_sinks if key in counts}
        yield counter("attempts", "sink outcome", "Delivery attempts by outcome.", attempts)
        rows = []
        for sink, seconds in of("seconds", self._sinks).items():
            buckets = [counts.get(("bucket", sink, bound), 0) for bound in workers.LABELS]
            rows.append(((sink,), cumulative(workers.LABELS, buckets), seconds))
        yield histogram("attempt_seconds", "sink", "Duration of a delivery attempt.", rows)
        events, failed = of("events", DISPOSITIONS), of("rule_errors", self._routes)
        yield counter("events", "disposition", "Events recorded in the ledger, by disposition.", events)
        yield counter("rule_errors", "route", "Rules that could not be evaluated on an event.", failed)
        unrouted, aside = counts.get(("unrouted",), 0), counts.get(("set_aside",), 0)
        yield counter("events_unrouted", "", "Events that matched no route.", unrouted)
        yield counter("inbox_set_aside", "", "Entries of the inbox that were set aside.", aside)


class Problems:
    """What the cheap checks find: read at most every CHECKED_FOR seconds, and for KEPT_FOR seconds."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: Future[None] | None = None
        self._counts: Mapping[str, int] = {}
        self._checked_at = float("-inf")

    async def count(self, within: float) -> Mapping[str, int] | None:
        """Return the number of problems by code; None if they are unknown. Waits at most `within` seconds."""
        if self._running is None and time.monotonic() - self._checked_at > CHECKED_FOR:
            self._running = in_thread("checks", self._check)
        if self._running is not None:
            await asyncio.wait([asyncio.wrap_future(self._running)], timeout=within)
        return self._counts if time.monotonic() - self._checked_at < KEPT_FOR else None

    def _check(self) -> None:
        try:
            self._counts = Counter(finding.code for finding in find(survey(self._settings)) if not finding.note)
            self._checked_at = time.monotonic()
        except Exception:
            log.exception("metrics.bug the checks ended with an error")
        finally:
            self._running = None


def metrics(context: Context, within: float = LEDGER_WITHIN) -> WebComponent:
    """Return the route /metrics. `within`: seconds that the ledger has to answer."""
    ledger = Ledger(context.settings.database_url)
    client = connect_async(context.settings.redis_url, timeout=1.0, connect_timeout=1.0, retries=1)
    state = PolledMetrics(
        context.config.destinations, [route.name for route in context.config.routes], list(context.config.sources)
    )
    registry = CollectorRegistry()
    for collector in (ReceiverSamples(context.metrics), state):
        registry.register(collector)
    ProcessCollector(registry=registry)
    problems = Problems(context.settings)
    lock = asyncio.Lock()

    def due_polls(connection: Connection) -> dict[str, int]:
        return polls.count_due(connection, ledger.known_now(), list(context.config.sources), COUNT_LIMIT)

    async def poll() -> None:
        state.processes = state.gauges = state.counts = None
        with suppress(LedgerUnavailable):
            state.processes = await asyncio.to_thread(board.list_processes, ledger, within)
            state.gauges = await asyncio.to_thread(ledger.read, read, within)
            state.due_polls = await asyncio.to_thread(ledger.read, due_polls, within)
        with suppress(redis.RedisError):
            state.counts = workers.parse(await client.hgetall(workers.KEY))
        state.problems = await problems.count(within)
        state.polled_at = time.monotonic()

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

    return WebComponent(admin=[Route("/metrics", serve)], lifespan=lifespan)
