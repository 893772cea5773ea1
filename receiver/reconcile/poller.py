"""Polls Skyvern's API for results that no webhook has brought. Bounded, and independent of Redis.

A final answer becomes an event, via poll, and is recorded as one from the inbox; when it may is
decided in intake.py. A submission whose answer was lost is first resolved by its token. Each poll is leased in the
ledger, so several clocks share the work, and what a killed one was polling is polled again. Submissions have leases of
their own; other runs are asked for in run_polls.py, and found by the walks of watcher.py.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import redis

from handlers.support.daemon_pool import DaemonPool
from receiver.config.fields import parse_rate
from receiver.config.models import WATCH_ALONE_EVERY, Config, ReconcileConfig
from receiver.config.settings import Settings
from receiver.dispatch.decide import make_router
from receiver.dispatch.late_binding import LateBinding
from receiver.dispatch.recorder import EventRecorder
from receiver.dispatch.recorder import build as build_recorder
from receiver.domain import poll_schedule
from receiver.domain.agent_url import hooks_of
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run, parse
from receiver.domain.submission import Submission, SubmissionMove, SubmissionState
from receiver.errors import ConfigError
from receiver.ingest import poll_hints
from receiver.ledger import Connection, Ledger, LedgerUnavailable, run_polls, runs
from receiver.ledger.run_polls import DueRun
from receiver.ledger.submissions import lifecycle, polls, records
from receiver.reconcile.intake import Intake, ResultIntake
from receiver.reconcile.resolver import Resolver
from receiver.reconcile.run_polls import RunPolls
from receiver.reconcile.source import BUDGET_PAUSE, PolledSource
from receiver.reconcile.watcher import Watcher
from receiver.runtime.redis_client import connect
from receiver.runtime.throttle import RateLimits, TokenBucket
from receiver.skyvern.client import SkyvernReader
from receiver.skyvern.responses import Answer, Answered, Patience, Unreachable

# Of one poll: shorter than its lease, and the next poll is the retry.
PATIENCE = Patience(tries=1, limit=25.0)
_MAX_UNKNOWN = 50
# Polls of runs named by an unsigned request only: one in ten seconds, and a burst.
HINTS_PER_SECOND = 0.1
HINTS_AT_ONCE = 10.0

log = logging.getLogger("runhook.reconcile")


T = TypeVar("T")
LeaseDue = Callable[[Connection, str, float, int], Sequence[T]]  # (connection, source, now, limit)


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
        # What is polled: the table of its leases, and the function that starts polls.
        self._kinds: list[tuple[Any, Callable[[PolledSource, Sequence[Any]], None]]] = [
            (run_polls, self._poll_runs),
            (polls, self._poll_submissions),
        ]
        self.intake = ResultIntake(ledger, recorder, settings)
        self._run_polls = RunPolls(ledger, self.intake, settings)
        self._hints = TokenBucket(HINTS_PER_SECOND, HINTS_AT_ONCE)
        self.watcher = Watcher(ledger, settings, lambda: self._closed, watch_back)

    def tick(self) -> int:
        """Start the polls that are due and within the budget; waits for nothing. Returns how many it started.

        Raises LedgerUnavailable.
        """
        self._take_hints()
        for source in self.watcher.due(self.sources):
            self._start(source, partial(self.watcher.walk, source))
        # By turns, so that no kind waits forever when the budget is too small for all due polls.
        self._kinds.reverse()
        now, started = self._ledger.now(), 0
        for (kind, start), counts in zip(self._kinds, self._due(now, self._slots), strict=True):
            for name, count in sorted(counts.items()):  # what is of no source with a key waits
                leased = self._lease(self._sources[name], count, kind.lease_due, now)
                start(self._sources[name], leased)
                started += len(leased)
        return started

    def _poll_submissions(self, source: PolledSource, leased: Sequence[Submission]) -> None:
        unresolved = [each for each in leased if each.state is not SubmissionState.ACCEPTED]
        for each in leased:
            if each.state is SubmissionState.ACCEPTED:
                self._start(source, partial(self._poll, source, each))
        if unresolved:  # one search serves all whose response was lost
            self._start(source, partial(self._resolve, source, unresolved))

    def _poll_runs(self, source: PolledSource, leased: Sequence[DueRun]) -> None:
        for each in leased:
            self._start(source, partial(self._run_polls.poll, source, each))

    def _lease(self, source: PolledSource, count: int, lease_due: LeaseDue[T], now: float) -> Sequence[T]:
        """Lease up to `count` of what is due, as many as the source's budget allows and as may run at once."""
        free = self._settings.concurrency - self._running[source.name]
        granted = source.budget(min(free, count)) if free > 0 else 0
        return self._ledger.write(lambda it: lease_due(it, source.name, now, granted)) if granted > 0 else ()

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
                    self._ledger.write(partial(run_polls.ask, source=source, due_times={run_id: now}, now=now))

    # One poll.

    def _poll(self, source: PolledSource, submission: Submission) -> None:
        answer = source.reader.get_run(submission.run_id)
        run = parse(answer.body) if isinstance(answer, Answered) and answer.ok else None
        if run is not None and run.run_id != submission.run_id:
            answer, run = Unreachable(False, "Skyvern's answer is of no such run"), None
        self._handle(source, submission, answer, run)

    def _handle(self, source: PolledSource, submission: Submission, answer: Answer, run: Run | None) -> None:
        """Dispatch the run if it is final; else end the polling of its submission, or postpone it."""
        now = self._ledger.now()
        found = Intake(False)
        if isinstance(answer, Answered) and run:
            found = self.intake.take(
                source, answer.body, run, "poll", submission.id, submitted_at=submission.created_at
            )
        if found.taken:
            log.info("reconcile.found source=%s run=%s submission=%s", source.name, submission.run_id, submission.id)
            still = self._ledger.read(lambda connection: records.get(connection, submission.id))
            if still is None or still.due_at is None:
                return
        elif (again_at := found.again_at) is not None:
            self._ledger.write(
                lambda connection: lifecycle.postpone(connection, submission.id, again_at, found.reason, now)
            )
            return
        gone, retry_after = False, None
        if isinstance(answer, Answered):
            reason = found.reason or f"the run is {run.status}" if run else f"Skyvern answered {answer.status}"
            retry_after = answer.retry_after
            # Not at the first 404: a run may take days, and a proxy before Skyvern may say that for a moment.
            twice = answer.status == HTTPStatus.NOT_FOUND and submission.reason == reason
            gone = twice and submission.created_at < now - poll_schedule.LOST_AFTER
        else:
            reason = answer.reason
        if gone or self._has_ended(source, submission, answer, now):
            self._ledger.write(lambda connection: polls.stop_polling(connection, submission.id, reason, now))
        else:
            longest = self._settings.longest
            again = poll_schedule.next_poll(submission.polls, now, random.random(), longest, retry_after=retry_after)
            self._ledger.write(lambda connection: lifecycle.postpone(connection, submission.id, again, reason, now))

    def _has_ended(self, source: PolledSource, submission: Submission, answer: Answer, now: float) -> bool:
        """Whether this was the one more poll of a run whose end is known: it is repeated only while Skyvern has
        trouble, and for no longer than a day."""
        ended = self._ledger.read(lambda connection: runs.ended_at(connection, source.name, submission.run_id))
        status = answer.status if isinstance(answer, Answered) else HTTPStatus.GATEWAY_TIMEOUT
        trouble = status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        return ended is not None and not (trouble and ended > now - poll_schedule.LOST_AFTER)

    def _resolve(self, source: PolledSource, leased: Sequence[Submission]) -> None:
        """Search for the runs of submissions whose answer was lost: those that are due, and all others as well."""
        now = self._ledger.now()

        def miss(connection: Connection) -> list[Submission]:
            for each in leased:
                if each.state is SubmissionState.PENDING and each.created_at < now - lifecycle.PENDING_LIMIT:
                    reason = "the process that waited for the answer ended"
                    lifecycle.resolve(
                        connection, each.id, SubmissionMove.MISS, now, due_at=now + polls.LEASE, reason=reason
                    )
            return polls.unknown(connection, source.name, _MAX_UNKNOWN)

        wanted = {each.id: each for each in [*leased, *self._ledger.write(miss)]}
        within = self._settings.absent_after
        old = {
            each.id: each
            for each in wanted.values()
            if each.state is SubmissionState.UNKNOWN and each.created_at < now - within
        }
        due = {each.id for each in leased}
        self._search(source, [each for each in wanted.values() if each.id not in old], due)
        if old and self._searching[source.name].acquire(blocking=False):  # one at a time: it may read a long list
            try:
                self._search(source, list(old.values()), due, within)
            finally:
                self._searching[source.name].release()

    def _search(
        self, source: PolledSource, unresolved: Sequence[Submission], due: Collection[str], within: float | None = None
    ) -> None:
        """Search for the runs of submissions, and end or postpone the search for those that are due. `within`: see
        `Resolver.resolve`."""
        stopped = (lambda: True) if within is None else lambda: self._closed
        resolver = self._resolvers[source.name]
        runs_found, absent = resolver.resolve(unresolved, within, stopped)
        for submission_id, fetched in runs_found.items():
            log.info("reconcile.resolved source=%s submission=%s", source.name, submission_id)
            found = self._ledger.read(lambda connection, key=submission_id: records.get(connection, key))  # type: ignore[misc]
            if found is not None:
                self._handle(source, found, *fetched)
        a_day_ago = self._ledger.now() - poll_schedule.LOST_AFTER
        for each in unresolved:
            if each.id in absent:
                self._give_up(each, "Skyvern has no run with its token", release=True)
            elif each.id in due and each.id not in runs_found:
                if each.created_at < a_day_ago:
                    self._give_up(each, "a day without a trace of a run")
                else:
                    self._search_again(each)

    def _give_up(self, submission: Submission, reason: str, *, release: bool = False) -> None:
        log.info("reconcile.lost source=%s submission=%s reason=%s", submission.source, submission.id, reason)
        now = self._ledger.now()
        self._ledger.write(
            lambda connection: lifecycle.resolve(
                connection, submission.id, SubmissionMove.GIVE_UP, now, reason=reason, release=release
            )
        )

    def _search_again(self, submission: Submission) -> None:
        now = self._ledger.now()
        ages = [lifecycle.PENDING_LIMIT, self._settings.absent_after]
        again = poll_schedule.next_resolve(now - submission.created_at, submission.polls, now, random.random(), ages)
        reason = "no run with its token was found"
        self._ledger.write(lambda connection: lifecycle.postpone(connection, submission.id, again, reason, now))

    # By hand.

    def count_due(self, most: int = 10_000) -> int:
        """Count the polls that are due, at most `most` per kind and source."""
        return sum(number for each in self._due(self._ledger.now(), most) for number in each.values())

    def _due(self, now: float, most: int) -> list[dict[str, int]]:
        """Return how many polls of each kind are due, by source."""
        return self._ledger.read(lambda it: [kind.count_due(it, now, self._sources, most) for kind, _ in self._kinds])

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
            started = self.tick()
            count += started
            show(count)
            if not started and not self._running.total():
                break
            time.sleep(0.05)
        return count

    @property
    def alone(self) -> bool:
        """Whether results wait for walks alone: a source is watched at the pace of a receiver without webhooks."""
        return self._settings.watch_every <= WATCH_ALONE_EVERY and any(each.watch for each in self.sources)

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
