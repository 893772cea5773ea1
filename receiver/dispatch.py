"""From the inbox to the ledger: what each event says, whether it is new, and which deliveries it makes.

One batch is one transaction; one with large bodies is taken in parts. Only when it is committed do its entries leave
the inbox, so a dispatcher may be killed at any moment: the batch comes back, and its event ids tell that it was there
already.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import redis

from receiver import wakeups
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain import callback, deduplication, poll_schedule
from receiver.domain.deduplication import Facts
from receiver.domain.event import Event
from receiver.domain.redaction import Redactor
from receiver.domain.run import parse
from receiver.inbox import Entry, InboxReader
from receiver.ledger import Connection, Ledger, LedgerDataError, LedgerUnavailable, runs
from receiver.ledger import events as recording
from receiver.ledger.events import KnownRun, NewDelivery, NewEvent, RunKey
from receiver.ledger.submissions import binding
from receiver.ledger.submissions.lifecycle import Submission
from receiver.routing.router import Router, RunView
from receiver.runtime.outage import Pause
from receiver.runtime.redis_client import connect
from receiver.telemetry.workers import DispatchCounter

QUEUE = wakeups.DISPATCH
BATCH = 256
PART_BYTES = 8 << 20
"""Bytes of bodies of one transaction (one event may be larger): a body takes ten times its size in memory while it is
understood, and all who write wait for a transaction."""
LINGER = 1.0
"""Seconds that a job waits for more before it ends, so that a steady trickle needs no new wake-up."""
RECLAIM_EVERY = 4.0

log = logging.getLogger("runhook.dispatch")


class Dispatcher(wakeups.JobBody):
    """The body of the dispatch jobs of one process."""

    def __init__(
        self, ledger: Ledger, router: Router, redactor: Redactor, reader: InboxReader, connection: redis.Redis
    ) -> None:
        self._ledger = ledger
        self._router = router
        self._redactor = redactor
        self._reader = reader
        self._redis = connection
        self._tally = DispatchCounter(connection)
        self._pause = Pause(log, "dispatch")
        self._kept: list[Entry] = []  # read, but the ledger was away
        self._reclaimed_at = 0.0

    def run(self, stop: Callable[[], bool]) -> None:
        """Move events until the inbox is quiet or `stop()` says so: the worker stops, or this job's turn is over."""
        self._reader.ensure()
        try:
            self._take(self._kept)
            while not stop():
                if time.monotonic() - self._reclaimed_at > RECLAIM_EVERY:
                    self._reclaimed_at = time.monotonic()
                    while reclaimed := self._reader.reclaim():
                        self._take(reclaimed)
                entries = self._reader.read(BATCH) or self._reader.read(BATCH, block_ms=int(LINGER * 1000))
                if not entries:
                    break
                self._take(entries)
            self._tally.flush()
            wakeups.settle(self._redis, QUEUE, self._look_once_more)
        except LedgerUnavailable as error:
            # What was read stays with us; the clock rings again in a moment.
            self._pause.wait(f"ledger={error} kept={len(self._kept)}", stop)
            wakeups.lower_flag(self._redis, QUEUE)

    def _look_once_more(self) -> bool:
        """Whoever added to the inbox while the flag was still up has rung no bell. What is found is done here and now:
        the next wake-up may go to another dispatcher."""
        entries = self._reader.read(BATCH)
        self._take(entries)
        return bool(entries)

    def close(self) -> None:
        """Let go of the ledger and Redis."""
        self._tally.flush()
        self._ledger.close()
        self._redis.close()

    def _take(self, entries: list[Entry]) -> None:
        self._kept = entries
        while self._kept:
            part = _part(self._kept)
            events = [entry.event for entry in part if entry.event is not None]
            if len(events) < len(part):
                log.error("dispatch.dropped entries=%d reason=not written by a receiver", len(part) - len(events))
            sinks = self.dispatch(events)
            self._reader.done([entry.entry_id for entry in part])
            self._kept = self._kept[len(part) :]
            wakeups.wake_sinks(self._redis, sinks)

    def dispatch(self, events: Sequence[Event]) -> list[str]:
        """Record `events` and make their deliveries. Returns the sinks that now have something to do.

        Raises LedgerUnavailable; nothing of the batch is recorded then.
        """
        started = time.monotonic()
        unique = list({event.id: event for event in events}.values())
        batch = [self._assess(event) for event in unique]
        sinks: set[str] = set()
        recorded = self._record(batch, sinks)
        self._pause.end()
        if batch:
            log.info(
                "dispatch.recorded events=%d new=%d deliveries=%d ms=%.1f",
                len(events),
                len(recorded),
                sum(len(item.deliveries) for item in batch if item.event.id in recorded),
                (time.monotonic() - started) * 1000,
            )
        for item in batch:
            if item.event.id in recorded:
                self._tally.add(item.disposition, routed=bool(item.deliveries), unevaluated=item.failed_rules)
        return sorted(sinks)

    def _assess(self, event: Event) -> NewEvent:
        """What can be told without the ledger. Never raises: what can't be understood is kept and marked."""
        try:
            run = parse(event.body)
            body, data = self._redactor.apply(event.body, run.data)
            run = run.redacted(data)
            readable = bool(run.run_id) and not run.problem
            return NewEvent(event, run, body, deduplication.of(event.id, run, 0) if readable else None)
        except Exception as error:
            log.exception("dispatch.unreadable event=%s", event.id)
            return self._marked(event, f"could not be read: {type(error).__name__}")

    def _marked(self, event: Event, problem: str) -> NewEvent:
        blank = parse(b"")
        body, _ = self._redactor.apply(event.body, {})
        return NewEvent(event, replace(blank, problem=problem), body, None)

    def _record(self, batch: list[NewEvent], sinks: set[str]) -> set[str]:
        """Record the batch; when the database refuses a value, halve it until the one to blame stands alone."""
        if not batch:
            return set()
        try:
            new, rung = self._ledger.write(lambda connection: self._decide(connection, batch))
        except LedgerDataError as error:
            if len(batch) == 1:
                log.warning("dispatch.marked event=%s problem=%s", batch[0].event.id, error)
                marked = self._marked(batch[0].event, f"the ledger refused a value of it: {error}")
                new, rung = self._ledger.write(lambda connection: self._decide(connection, [marked]))
                batch[0].disposition, batch[0].deliveries = marked.disposition, []
            else:
                half = len(batch) // 2
                return self._record(batch[:half], sinks) | self._record(batch[half:], sinks)
        sinks |= rung
        return new

    def _decide(self, connection: Connection, batch: list[NewEvent]) -> tuple[set[str], set[str]]:
        now = time.time()
        known = recording.lock_runs(connection, [item.key for item in batch if item.run.run_id], now)
        bound = binding.bind(connection, [(*item.key, item.event.submission_id) for item in batch], now)
        histories = {key: list(run.history) for key, run in known.items()}
        news: list[NewEvent] = []
        for item in batch:
            history = histories.get(item.key, [])
            if any(each.event_id == item.event.id for each in history):
                continue  # recorded before: its dispatcher was killed between commit and ack
            self._judge(item, history)
            self._route(item, known.get(item.key), bound.get(item.key))
            news.append(item)
        new = recording.record(connection, news, now)
        if bound:
            self._finish(connection, batch, known, histories, bound, now)
        return new, {
            delivery.sink for item in news if item.event.id in new for delivery in item.deliveries if not delivery.after
        }

    def _finish(
        self,
        connection: Connection,
        batch: Sequence[NewEvent],
        known: Mapping[RunKey, KnownRun],
        histories: Mapping[RunKey, Sequence[Facts]],
        bound: Mapping[RunKey, Submission],
        now: float,
    ) -> None:
        """Final runs are looked for no more; but once, some time later, when the first that was heard of the end is a
        cancel without output. What reconciliation itself brought was that look."""
        looked = {
            item.key
            for item in batch
            if item.event.via == "poll" and item.key in bound and item.event.submission_id == bound[item.key].id
        }
        over, once_more = [], []
        for key in runs.final_ones(connection, bound):
            first = not any(each.final for each in known[key].history)
            if not deduplication.may_tell_more(histories[key]) or (key in looked and not first):
                over.append(key)
            elif first:
                once_more.append(key)
        binding.finish(connection, over, now)
        binding.look_once_more(connection, once_more, now + poll_schedule.AFTER_CANCEL, now)

    def _judge(self, item: NewEvent, history: list[Facts]) -> None:
        if item.facts is None:
            item.disposition, item.repeat_of, item.newest = "unreadable", None, False
            return
        mine = replace(item.facts, seq=history[-1].seq + 1 if history else 1)
        verdict = deduplication.classify(mine, history)
        item.disposition, item.repeat_of = verdict.disposition, verdict.repeat_of
        item.newest = verdict.disposition in ("new", "interim")
        history.append(mine)

    def _route(self, item: NewEvent, run: KnownRun | None, submission: Submission | None) -> None:
        item.deliveries = []
        if item.disposition == "unreadable":
            return
        view = RunView(
            run=item.run,
            source=item.event.source,
            via=item.event.via,
            disposition=item.disposition,
            labels=submission.labels if submission else run.labels if run else {},
            received_at=item.event.received_at,
            event_id=item.event.id,
        )
        verdict = self._router.match(view)
        item.note = "; ".join(f"route {each.route} {each.why}" for each in verdict.explanations if each.error)
        item.failed_rules = tuple(each.route for each in verdict.explanations if each.error)
        item.deliveries = [NewDelivery(each.sink, each.route, after=each.after) for each in verdict.targets]
        if submission and submission.callback_url and item.newest:  # as Skyvern would: one for each attempt's end too
            lane = callback.lane_of(submission.callback_url)
            item.deliveries.append(NewDelivery(callback.CALLBACK, callback.ROUTE, lane))


def _part(entries: list[Entry]) -> list[Entry]:
    """The first of them, up to PART_BYTES of bodies, and at least one."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.event.body) if entry.event is not None else 0
        if count and size > PART_BYTES:
            return entries[:count]
    return entries


def build(settings: Settings, config: Config, owner: str) -> Dispatcher:
    """The dispatcher of a worker process called `owner`. Opens its connections on first use."""
    connection = connect(settings.redis_url, timeout=LINGER + 5, connect_timeout=2.0, retries=1)
    return Dispatcher(
        Ledger(settings.database_url),
        Router(config.routes),
        Redactor(config.redact),
        InboxReader(connection, owner),
        connection,
    )
