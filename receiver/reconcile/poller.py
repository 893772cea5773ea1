"""Polls Skyvern's API for results that no webhook has brought. Bounded, and independent of Redis.

A final answer becomes an event, via poll, and is recorded as one from the inbox: see run_polls.py and intake.py. A
submission whose answer was lost is first resolved by its token. Each poll is leased in the ledger, so several clocks
share the work, and what a killed one was polling is polled again. The walks of watcher.py find other runs.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import redis

from handlers.support.daemon_pool import DaemonPool
from receiver.config.fields import parse_rate
from receiver.config.models import Config, ReconcileConfig
from receiver.config.settings import Settings
from receiver.dispatch.decide import make_router
from receiver.dispatch.late_binding import LateBinding
from receiver.dispatch.recorder import EventRecorder
from receiver.dispatch.recorder import build as build_recorder
from receiver.domain import poll_schedule
from receiver.domain.agent_url import hooks_of
from receiver.domain.redaction import Redactor
from receiver.domain.submission import Submission, SubmissionMove, SubmissionState
from receiver.errors import ConfigError
from receiver.ingest import poll_hints
from receiver.ledger import Connection, Ledger, LedgerUnavailable, polls
from receiver.ledger.polls import Poll
from receiver.ledger.submissions import lifecycle, records
from receiver.reconcile.intake import ResultIntake
from receiver.reconcile.resolver import Resolver
from receiver.reconcile.run_polls import RunPolls
from receiver.reconcile.source import BUDGET_PAUSE, PolledSource
from receiver.reconcile.watcher import Watcher
from receiver.runtime.redis_client import connect
from receiver.runtime.throttle import RateLimits, TokenBucket
from receiver.skyvern.client import SkyvernReader
from receiver.skyvern.responses import Patience

# Of one poll: shorter than its lease, and the next poll is the retry.
PATIENCE = Patience(tries=1, limit=25.0)
_MAX_UNKNOWN = 50
# Polls of runs named by an unsigned request only: one in ten seconds, and a burst.
HINTS_PER_SECOND = 0.1
HINTS_AT_ONCE = 10.0

log = logging.getLogger("runhook.reconcile")


class Reconciler:
    """Polls for overdue results of all sources, in threads of its own. `intake`: takes in what Skyvern says of runs.
    `watcher`: walks its lists. `when_late`: called for a submission whose run has results already."""

    def __init__(
        self,
        ledger: Ledger,
        recorder: EventRecorder,
        connection: redis.Redis,
        settings: ReconcileConfig,
        sources: Sequence[PolledSource],
        when_late: lifecycle.WhenLate,
        watch_back: float | None = None,
    ) -> None:
        self._ledger = ledger
        self._recorder = recorder
        self._redis = connection
        self._settings = settings
        self._sources = {each.name: each for each in sources}
        self._resolvers = {each.name: Resolver(each, ledger, when_late) for each in sources}
        self._slots = settings.concurrency * max(len(sources), 1)
        self._pool = DaemonPool(self._slots, "reconcile")
        self._running: Counter[str] = Counter()  # polls under way, by source
        self._counting = threading.Lock()
        self._searching = {each.name: threading.Lock() for each in sources}
        self._closed = False
        self.intake = ResultIntake(ledger, recorder, settings)
        self._run_polls = RunPolls(ledger, self.intake, settings)
        self._hints = TokenBucket(HINTS_PER_SECOND, HINTS_AT_ONCE)
        self.watcher = Watcher(ledger, settings, lambda: self._closed, watch_back)

    def tick(self, *, hints: bool = True) -> int:
        """Start the polls that are due and within the budget; waits for nothing. Returns how many it started.

        `hints`: whether to read hints from Redis first. Raises LedgerUnavailable.
        """
        if hints:
            self._take_hints()
        for source in self.watcher.due(self.sources):
            self._start(source, partial(self.watcher.walk, source))
        now, started = self._ledger.now(), 0
        for name, count in sorted(self._due(now, self._slots).items()):  # those of no source with a key wait
            leased = self._lease(self._sources[name], count, now)
            self._poll(self._sources[name], leased)
            started += len(leased)
        return started

    def _lease(self, source: PolledSource, count: int, now: float) -> Sequence[Poll]:
        """Lease up to `count` due polls, as many as the source's budget allows and as may run at once."""
        free = self._settings.concurrency - self._running[source.name]
        granted = source.budget(min(free, count)) if free > 0 else 0
        return self._ledger.write(lambda it: polls.lease_due(it, source.name, now, granted)) if granted > 0 else ()

    def _poll(self, source: PolledSource, leased: Sequence[Poll]) -> None:
        """Start the leased polls. One search serves all submissions whose response was lost."""
        ids = [each.run_id for each in leased]
        unresolved = self._ledger.read(lambda it: records.open_among(it, source.name, ids)) if ids else {}
        for each in leased:
            if each.run_id not in unresolved:
                self._start(source, partial(self._run_polls.poll, source, each))
        if searched := {each: unresolved[each.run_id] for each in leased if each.run_id in unresolved}:
            self._start(source, partial(self._resolve, source, searched))

    def _start(self, source: PolledSource, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except LedgerUnavailable as error:
                log.warning("reconcile.paused source=%s ledger=%s", source.name, error)  # the lease runs out
            except Exception:
                log.exception("reconcile.bug source=%s", source.name)
            finally:
                with self._counting:
                    self._running[source.name] -= 1

        with self._counting:
            self._running[source.name] += 1
        self._pool.submit(guarded)

    def _take_hints(self) -> None:
        """Schedule a poll of a run whose webhook was too large. Bounded: any client that knows the URL invents them."""
        with suppress(redis.RedisError):
            if not self._redis.exists(poll_hints.KEY) or not self._hints.take(1, time.monotonic()):
                return
            for source, run_id in poll_hints.pop_hints(self._redis, 1):
                if source in self._sources:
                    now = self._ledger.now()
                    self._ledger.write(partial(polls.ask, source=source, due_times={run_id: now}, now=now))

    # Searches.

    def _resolve(self, source: PolledSource, leased: Mapping[Poll, Submission]) -> None:
        """Search for the runs of submissions whose answer was lost: those that are due, and all others as well."""
        now = self._ledger.now()

        def miss(connection: Connection) -> list[Submission]:
            for each in leased.values():
                if each.state is SubmissionState.PENDING and each.created_at < now - lifecycle.PENDING_LIMIT:
                    reason = "the process that waited for the answer ended"
                    lifecycle.resolve(connection, each.id, SubmissionMove.MISS, now, due_at=now, reason=reason)
            return records.unknown(connection, source.name, _MAX_UNKNOWN)

        wanted = {each.id: each for each in [*leased.values(), *self._ledger.write(miss)]}
        within = self._settings.absent_after
        old = {
            each.id: each
            for each in wanted.values()
            if each.state is SubmissionState.UNKNOWN and each.created_at < now - within
        }
        due = {each.run_id: each for each in leased}
        self._search(source, [each for each in wanted.values() if each.id not in old], due)
        if old and self._searching[source.name].acquire(blocking=False):  # one at a time: it may read a long list
            try:
                self._search(source, list(old.values()), due, within)
            finally:
                self._searching[source.name].release()

    def _search(
        self,
        source: PolledSource,
        unresolved: Sequence[Submission],
        due: Mapping[str, Poll],
        within: float | None = None,
    ) -> None:
        """Search for the runs of submissions, and end or postpone the search for those that are due. `within`: see
        `Resolver.resolve`."""
        stopped = (lambda: True) if within is None else lambda: self._closed
        resolved, absent = self._resolvers[source.name].resolve(unresolved, within, stopped)
        for submission_id in sorted(resolved):
            log.info("reconcile.resolved source=%s submission=%s", source.name, submission_id)
        a_day_ago = self._ledger.now() - poll_schedule.LOST_AFTER
        for each in unresolved:
            if each.id in absent:
                self._give_up(each, "Skyvern has no run with its token", release=True)
            elif each.id in due and each.id not in resolved:
                if each.created_at < a_day_ago:
                    self._give_up(each, "a day without a trace of a run")
                else:
                    self._search_again(each, due[each.id])

    def _give_up(self, submission: Submission, reason: str, *, release: bool = False) -> None:
        log.info("reconcile.lost source=%s submission=%s reason=%s", submission.source, submission.id, reason)
        now = self._ledger.now()
        self._ledger.write(
            lambda connection: lifecycle.resolve(
                connection, submission.id, SubmissionMove.GIVE_UP, now, reason=reason, release=release
            )
        )

    def _search_again(self, submission: Submission, poll: Poll) -> None:
        now = self._ledger.now()
        ages = [lifecycle.PENDING_LIMIT, self._settings.absent_after]
        again = poll_schedule.next_resolve(now - submission.created_at, poll.polls, now, random.random(), ages)
        again = poll.planned_at if poll.planned_at > now else again
        reason = "no run with its token was found"
        self._ledger.write(lambda connection: polls.postpone(connection, poll, again, now, reason))

    # By hand.

    def count_due(self, most: int = 10_000) -> int:
        """Count the polls that are due, at most `most` per source."""
        return sum(self._due(self._ledger.now(), most).values())

    def _due(self, now: float, most: int) -> dict[str, int]:
        """Return how many polls are due, by source."""
        return self._ledger.read(lambda it: polls.count_due(it, now, self._sources, most))

    def drain_all(self) -> None:
        """Poll all that is due, as fast as the budget allows."""
        while self.count_due():
            self.drain(math.inf)  # which ends when no poll is under way
            time.sleep(BUDGET_PAUSE)

    def drain(self, seconds: float, show: Callable[[int], None] = lambda _: None) -> int:
        """Poll all that is due, within the budget and `seconds`. Returns the number of polls; `show` gets
        the progress."""
        until = time.monotonic() + seconds
        count = 0
        while time.monotonic() < until:
            was_idle = not self._running.total()  # before the tick: a search that ends makes a poll due
            started = self.tick()
            count += started
            show(count)
            if not started and was_idle and not self._running.total():
                break
            time.sleep(0.05)
        return count

    @property
    def sources(self) -> list[PolledSource]:
        """The sources whose API can be called."""
        return list(self._sources.values())

    def close(self) -> None:
        """Close everything. A poll that is under way ends with the process, and its lease runs out."""
        self._closed = True
        self._pool.close()
        for source in self._sources.values():
            source.reader.close()
        self._recorder.counter.flush()
        self._ledger.close()
        self._redis.close()


def build(settings: Settings, config: Config, watch_back: float | None = None) -> Reconciler:
    """Build the reconciler for these settings. It opens its connections on first use. Raises ConfigError.

    `watch_back`: seconds; the first walk of each source goes back so far, although there were others before.
    """
    connection = connect(settings.redis_url, timeout=2.0, connect_timeout=2.0, retries=1)
    ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
    recorder = build_recorder(settings, config, ledger, connection)
    limits = RateLimits(connection)
    late = LateBinding(partial(make_router, config), Redactor(config.redact)).route_again
    polled = []
    for name, source in config.sources.items():
        if (found := source.api(settings.skyvern_base_url)) is None:
            if source.watch and not source.api_key:  # and not one that was made on this machine
                log.warning("watch.off source=%s: it has no api_key, so its runs can't be listed", name)
            continue
        try:
            reader = SkyvernReader(*found, patience=PATIENCE)
        except ConfigError as problem:
            raise ConfigError(*(f"{settings.config}: sources.{name}.{each}" for each in problem.problems)) from None
        budget = partial(limits.take, f"reconcile/{name}", parse_rate(config.reconcile.budget))
        polled.append(PolledSource(name, reader, budget, source.watch, hooks_of(settings.public_url, name)))
    reconcile = config.reconcile.paced(webhooks=settings.waits_for_webhooks)
    if (kept := config.retention.events) is not None:  # what was removed was reported once
        reconcile = reconcile.model_copy(update={"watch_back": min(reconcile.watch_back, kept)})
        watch_back = None if watch_back is None else min(watch_back, kept)
    return Reconciler(ledger, recorder, connection, reconcile, polled, late, watch_back)
