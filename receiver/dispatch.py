"""Dispatch, from the inbox to the ledger: what each event says, whether it is new, and which deliveries it makes.

One batch is one transaction; one with large bodies is taken in parts. Only when it is committed do its entries leave
the inbox, so a dispatcher may be killed at any moment: the batch comes back, and its event ids tell that it was there
already.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import redis

from handlers.registry import sink_type
from receiver import wakeups
from receiver.config.fields import parse_rate
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain import attention, callback, callback_url, deduplication, poll_schedule, shape
from receiver.domain.deduplication import Classification, Facts
from receiver.domain.event import Event
from receiver.domain.parsed_event import ParsedEvent, complete, parse_event, unreadable
from receiver.domain.redaction import Redactor
from receiver.domain.run import RESTARTABLE, Run, RunKey, storable
from receiver.domain.shape import WORKFLOW
from receiver.inbox import Entry, InboxReader
from receiver.ledger import Connection, Ledger, LedgerDataError, LedgerUnavailable, events, run_polls, runs
from receiver.ledger.earlier_events import EarlierEvents
from receiver.ledger.events import NO_RUN, KnownRun, NewDelivery, NewEvent
from receiver.ledger.submissions import binding, polls
from receiver.ledger.submissions.lifecycle import Submission
from receiver.routing.router import Router, RunView
from receiver.runtime.outage import Pause
from receiver.runtime.redis_client import connect
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.workers import DispatchCounter

QUEUE = wakeups.DISPATCH
BATCH = 256
# Bytes of bodies in one transaction (one event may be larger): a body takes ten times its size in memory while it is
# parsed, and all who write wait for a transaction.
PART_BYTES = 8 << 20
# Seconds that a job waits for more before it ends, so that a steady trickle needs no new wake-up.
IDLE_WAIT = 1.0
RECLAIM_EVERY = 4.0

# What code raises for values that it is not made for. Trouble with the ledger is none of these.
_OF_VALUES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

log = logging.getLogger("runhook.dispatch")


class Dispatcher(wakeups.JobBody):
    """The body of the dispatch jobs of one process."""

    def __init__(
        self,
        ledger: Ledger,
        router: Router,
        redactor: Redactor,
        reader: InboxReader,
        connection: redis.Redis,
        may_ask: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`may_ask`: whether a source's API may be asked once more now, for what a webhook lacks."""
        self._ledger = ledger
        self._router = router
        self._redactor = redactor
        self._reader = reader
        self._redis = connection
        self._may_ask = may_ask
        self._counter = DispatchCounter(connection)
        self._pause = Pause(log, "dispatch")
        self._unfinished: list[Entry] = []  # read, but the ledger was away
        self._reclaimed_at = 0.0

    def run(self, stop: Callable[[], bool]) -> None:
        """Dispatch events until the inbox is quiet or `stop()`: the worker stops, or this job's time slice is over."""
        self._reader.ensure()
        try:
            self._process(self._unfinished)
            while not stop():
                if time.monotonic() - self._reclaimed_at > RECLAIM_EVERY:
                    self._reclaimed_at = time.monotonic()
                    while reclaimed := self._reader.reclaim():
                        self._process(reclaimed)
                entries = self._reader.read(BATCH) or self._reader.read(BATCH, block_ms=int(IDLE_WAIT * 1000))
                if not entries:
                    break
                self._process(entries)
            self._counter.flush()
            wakeups.finish(self._redis, QUEUE, self._read_once_more)
        except LedgerUnavailable as error:
            # What was read stays here; the clock sends a wake-up in a moment.
            self._pause.wait(f"ledger={error} kept={len(self._unfinished)}", stop)
            wakeups.lower_flag(self._redis, QUEUE)

    def _read_once_more(self) -> bool:
        """Dispatch what was added while the flag was still up, for which no wake-up was sent. It is done here and now:
        the next wake-up may go to another dispatcher."""
        entries = self._reader.read(BATCH)
        self._process(entries)
        return bool(entries)

    def close(self) -> None:
        """Close the ledger and Redis."""
        self._counter.flush()
        self._ledger.close()
        self._redis.close()

    def _process(self, entries: list[Entry]) -> None:
        self._unfinished = entries
        while self._unfinished:
            part = _part(self._unfinished)
            found = [entry.event for entry in part if entry.event is not None]
            if len(found) < len(part):
                log.error("dispatch.dropped entries=%d reason=not written by a receiver", len(part) - len(found))
            sinks = self.dispatch(found)
            self._reader.done([entry.entry_id for entry in part])
            self._unfinished = self._unfinished[len(part) :]
            wakeups.wake_sinks(self._redis, sinks)

    def dispatch(
        self,
        accepted: Collection[Event],
        parsed: Mapping[str, Run] = {},
        details: Mapping[str, Mapping[str, Any]] = {},
    ) -> list[str]:
        """Record events and make their deliveries. Returns the sinks that now have something to send.

        `parsed`: the runs, by event id, of bodies that the caller has parsed already. `details`: what further calls of
        Skyvern's API answered, by event id: see shape.of_details. Raises LedgerUnavailable; nothing of the batch is
        recorded then.
        """
        started = time.monotonic()
        unique = {event.id: event for event in accepted}.values()
        recorded = self._record(
            [self._parse(event, parsed.get(event.id), details.get(event.id, {})) for event in unique]
        )
        self._pause.end()
        if accepted:
            log.info(
                "dispatch.recorded events=%d new=%d deliveries=%d ms=%.1f",
                len(accepted),
                len(recorded),
                sum(len(item.deliveries) for item in recorded),
                (time.monotonic() - started) * 1000,
            )
        for item in recorded:
            if item.disposition == "test":
                _log_test(item)
            self._counter.add(item.disposition, routed=bool(item.deliveries), unevaluated=item.failed_rules)
        return sorted({new.sink for item in recorded for new in item.deliveries if not new.after})

    def _parse(self, event: Event, run: Run | None, details: Mapping[str, Any]) -> ParsedEvent:
        """Parse, redact and complete an event. Never raises: what can't be read is marked."""
        try:
            return parse_event(event, self._redactor, run, details)
        except Exception as error:  # noqa: BLE001 - it is logged with its traceback
            return self._marked(event, error)

    def _marked(self, event: Event, error: Exception) -> ParsedEvent:
        """Return an event that our own code could not handle."""
        log.error("dispatch.unreadable event=%s", event.id, exc_info=error)
        return unreadable(event, self._redactor, f"could not be read: {type(error).__name__}")

    def _record(self, batch: Sequence[ParsedEvent]) -> list[NewEvent]:
        """Record the batch; when the database refuses a value, halve it until the one to blame stands alone."""
        if not batch:
            return []
        try:
            return self._ledger.write(lambda connection: self._decide(connection, batch))
        except LedgerDataError as error:
            if len(batch) > 1:
                half = len(batch) // 2
                return self._record(batch[:half]) + self._record(batch[half:])
            event = batch[0].event
            log.warning("dispatch.marked event=%s problem=%s", event.id, error)
            marked = unreadable(event, self._redactor, f"the ledger refused a value of it: {error}")
            return self._ledger.write(lambda connection: self._decide(connection, [marked]))

    def _decide(self, connection: Connection, batch: Sequence[ParsedEvent]) -> list[NewEvent]:
        """Classify and route each event by what the ledger knows of its run, and record it. Returns the new ones."""
        now = time.time()
        of_runs = [each for each in batch if each.run.run_id and not each.run.test]
        wanted = [_wanted(each) for each in of_runs]
        linked = [key for each in wanted for key in each.linked]
        known = events.lock_runs(connection, [*(each.key for each in of_runs), *linked], now)
        bound = binding.bind(connection, wanted, now)
        histories = {key: list(run.history) for key, run in known.items()}
        earlier = EarlierEvents(connection)
        decided: list[NewEvent] = []
        for each in batch:
            history = histories.get(each.key, [])
            if any(past.event_id == each.event.id for past in history):
                continue  # recorded before: its dispatcher was killed between commit and acknowledgement
            if each.facts is None:
                decided.append(_new_event(each, "unreadable"))
            elif each.run.test:
                decided.append(self._route(each, deduplication.TEST, NO_RUN, None, ()))
            else:
                run, submission = known[each.key], bound.get(each.key)
                try:
                    decided.append(self._classify(each, each.facts, history, run, submission, earlier))
                except _OF_VALUES as error:  # it keeps none of the others waiting
                    decided.append(_new_event(self._marked(each.event, error), "unreadable"))
        recorded = events.record(connection, decided, now)
        if bound:
            _schedule_polls(connection, batch, known, histories, bound, now)
        lacking = {item.key for item in recorded if item.key not in bound and self._lacks_request(item)}
        run_polls.ask_for_more(connection, lacking, now + poll_schedule.FOR_MORE)
        failed = {item.key for item in recorded if item.key in bound and self._may_be_restarted(item)}
        run_polls.ask_for_more(connection, failed, now + poll_schedule.AFTER_RESTART)
        for source, run_id in sorted({(each.source, each.retried_by) for each in wanted if each.retried_by}):
            if self._may_ask(source):  # no submission is polled for that run
                run_polls.ask(connection, source, {run_id: now + poll_schedule.AFTER_RESTART}, now)
        return recorded

    def _lacks_request(self, item: NewEvent) -> bool:
        """Whether it is a task's end that does not say what was asked for, and Skyvern may be asked for it."""
        return (
            item.disposition == "new"
            and item.event.via == "webhook"
            and item.run.final
            and item.run.data.get("run_request", "") is None
            and self._may_ask(item.event.source)
        )

    def _may_be_restarted(self, item: NewEvent) -> bool:
        """Whether Skyvern may start the run again without saying so: the webhook of a run is sent before that."""
        may = item.disposition == "new" and item.run.run_type == WORKFLOW and item.run.outcome in RESTARTABLE
        return may and not item.run.retried_by and self._may_ask(item.event.source)

    def _classify(
        self,
        parsed: ParsedEvent,
        facts: Facts,
        history: list[Facts],
        run: KnownRun,
        submission: Submission | None,
        earlier: EarlierEvents,
    ) -> NewEvent:
        """Complete, classify and route one event, and add its facts to the `history` of its run."""
        if submission and submission.request is not None:
            request, older = storable(submission.request), submission.call.startswith("legacy")
            parsed = self._complete(parsed, shape.completion_of(parsed.run.data, request=request, older=older))
        own = replace(parsed.facts or facts, seq=history[-1].seq + 1 if history else 1)
        found = deduplication.classify(own, history)
        told: Collection[str] = ()
        if history and (completion := earlier.completion(parsed.run.data, own, history)):
            parsed = self._complete(parsed, completion)
            own = replace(own, extent=parsed.facts.extent if parsed.facts else "")
        if found.disposition == "update":
            told = earlier.sinks_told(own, history)
        history.append(own)
        event = self._route(parsed, found, run, submission, told)
        earlier.add(parsed.run.data, event)
        return event

    def _complete(self, parsed: ParsedEvent, completion: Mapping[str, Any]) -> ParsedEvent:
        return complete(parsed, self._redactor, completion) if completion else parsed

    def _route(
        self,
        parsed: ParsedEvent,
        found: Classification,
        run: KnownRun,
        submission: Submission | None,
        told: Collection[str],
    ) -> NewEvent:
        """Return the event with its deliveries. `told`: the sinks that an update of a result does not tell again."""
        event = parsed.event
        view = RunView(
            run=parsed.run,
            source=event.source,
            via=event.via,
            disposition=found.disposition,
            labels=submission.labels if submission else run.labels,
            received_at=event.received_at,
            event_id=event.id,
        )
        verdict = self._router.match(view, told=told)
        failed = [each for each in verdict.explanations if each.error]
        tells_more = found.disposition in ("new", "interim")
        deliveries = [NewDelivery(each.sink, each.route, after=each.after) for each in verdict.targets]
        # As Skyvern would: one for each attempt's end too, but none of a run that is paused or waits.
        if submission and submission.webhook_url and tells_more and parsed.run.status not in attention.ACTIVE:
            lane = callback.lane_of(submission.webhook_url)
            deliveries.append(NewDelivery(callback.CALLBACK, callback.ROUTE, lane))
        return _new_event(
            parsed,
            found.disposition,
            repeat_of=found.repeat_of,
            newest=(tells_more and not found.late) or found.disposition == "update",
            note="; ".join(f"route {each.route} {each.why}" for each in failed),
            failed_rules=tuple(each.route for each in failed),
            deliveries=tuple(deliveries),
        )


def _wanted(each: ParsedEvent) -> binding.Wanted:
    """Return what tells whose run it is."""
    named = callback_url.token_of(each.run.data)
    links = each.run.retried_from or "", each.run.retried_by or ""
    return binding.Wanted(*each.key, each.event.submission_id, named, *links)


def _log_test(test: NewEvent) -> None:
    """Log that a test webhook arrived, and where it goes: often the first thing that a new user sends."""
    sinks = ",".join(each.sink for each in test.deliveries)
    log.info(
        "dispatch.test test webhook arrived, signature right: source=%s event=%s %s",
        test.event.source,
        test.event.id,
        f"sinks={sinks}" if sinks else "no route that matches says `test: true`, so it goes nowhere",
    )


def _new_event(parsed: ParsedEvent, disposition: str, **more: Any) -> NewEvent:
    return NewEvent(
        parsed.event, parsed.run, parsed.body, parsed.facts, disposition, completion=parsed.completion, **more
    )


def _schedule_polls(
    connection: Connection,
    batch: Sequence[ParsedEvent],
    known: Mapping[RunKey, KnownRun],
    histories: Mapping[RunKey, Sequence[Facts]],
    bound: Mapping[RunKey, Submission],
    now: float,
) -> None:
    """End the polling of runs that are final. One whose first final event is a cancel without output is polled once
    more, some time later: its output may come in a second webhook, which can be lost. An event that a poll brought is
    the result of that poll."""
    polled = {
        each.key
        for each in batch
        if each.event.via == "poll" and each.key in bound and each.event.submission_id == bound[each.key].id
    }
    over, once_more = [], []
    for key in runs.final_runs(connection, bound):
        first = not any(each.final for each in known[key].history)
        if not deduplication.may_lack_output(histories[key]) or (key in polled and not first):
            over.append(key)
        elif first:
            once_more.append(key)
    polls.set_due(connection, over, None, now)
    polls.set_due(connection, once_more, now + poll_schedule.AFTER_CANCEL, now)


def _part(entries: list[Entry]) -> list[Entry]:
    """Return the first entries, up to PART_BYTES of bodies, and at least one."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.event.body) if entry.event is not None else 0
        if count and size > PART_BYTES:
            return entries[:count]
    return entries


def _completing(config: Config) -> list[str]:
    """Return the sinks whose type takes updates."""
    return [name for name, sink in config.sinks.items() if sink_type(sink.type).takes_updates]


def _asking(settings: Settings, config: Config) -> Callable[[str], bool]:
    """Return whether a source may be asked for what a webhook lacks: it has an API, and half of the budget is left."""
    if not config.reconcile.enabled:
        return lambda _: False
    count, seconds = parse_rate(config.reconcile.budget)
    buckets = {
        name: TokenBucket(count / seconds / 2, max(1.0, count / 2))
        for name, source in config.sources.items()
        if source.api(settings.skyvern_base_url)
    }
    return lambda source: source in buckets and buckets[source].take(1, time.monotonic())


def build(settings: Settings, config: Config, owner: str, connection: redis.Redis | None = None) -> Dispatcher:
    """Build the dispatcher of a process called `owner`. It opens its connections on first use.

    `connection`: to Redis, of a caller that has one. Only `run` needs one of its own, for its blocking reads.
    """
    connection = connection or connect(settings.redis_url, timeout=IDLE_WAIT + 5, connect_timeout=2.0, retries=1)
    return Dispatcher(
        Ledger(settings.database_url),
        Router(config.routes, _completing(config)),
        Redactor(config.redact),
        InboxReader(connection, owner),
        connection,
        _asking(settings, config),
    )
