"""Record a batch of events in one transaction: load what is known of its runs, decide, and write.

Polled and imported events are recorded here too, so nothing here knows the inbox.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import redis

from receiver.config.fields import parse_rate
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.dispatch import first_claim
from receiver.dispatch.decide import EventDecider, make_router
from receiver.dispatch.late_binding import LateBinding
from receiver.domain import poll_schedule
from receiver.domain.event import Event
from receiver.domain.history import RunHistory
from receiver.domain.members import WORKFLOW
from receiver.domain.new_event import NewEvent
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.redaction import Redactor
from receiver.domain.run import RESTARTABLE, Run, RunKey
from receiver.domain.time_limits import CLAIM
from receiver.ledger import Connection, Ledger, LedgerDataError, polls
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.recording import load, write
from receiver.routing.router import Router
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.workers import WorkerCounter

log = logging.getLogger("runhook.dispatch")


class Recorded(NamedTuple):
    """The new events of a batch; what of their deliveries was claimed for runners of this process, by sink; and the
    sinks that have something else due: of these events, or of earlier ones whose run was bound late."""

    events: list[NewEvent]
    claimed: dict[str, list[Claimed]]
    due: set[str]


class Runner(Protocol):
    """What sends to one sink, in threads of this process."""

    owner: str

    def room(self) -> int:
        """Return how many more deliveries it may take."""

    def take(self, claimed: Sequence[Claimed]) -> None:
        """Send deliveries that were recorded as claimed by `owner`."""

    def poke(self) -> None:
        """Claim what is due."""


class EventRecorder:
    """Records events and makes their deliveries. `may_ask`: whether a source's API may be asked once more now,
    for what a webhook lacks. `runners`: of this process, by sink: they get new deliveries from memory."""

    def __init__(
        self,
        ledger: Ledger,
        router: Router,
        redactor: Redactor,
        counter: WorkerCounter,
        may_ask: Callable[[str], bool] = lambda _: False,
        runners: Mapping[str, Runner] = {},
    ) -> None:
        self._ledger = ledger
        self._decider = EventDecider(router, redactor)
        self.counter = counter
        self.may_ask = may_ask
        self._runners = runners
        self._late = LateBinding(lambda: router, redactor)

    def parse(
        self,
        accepted: Collection[Event],
        parsed: Mapping[str, Run] = {},
        details: Mapping[str, Mapping[str, Any]] = {},
    ) -> list[ParsedEvent]:
        """Parse events for `record`. `parsed`: the runs, by event id, of bodies that the caller has parsed already.

        `details`: what further calls of Skyvern's API answered, by event id: see shape.of_details.
        """
        return [self._decider.parse(each, parsed.get(each.id), details.get(each.id, {})) for each in accepted]

    def unread(self, event: Event, problem: str) -> ParsedEvent:
        """Return an event whose body is kept but not read, for `problem`."""
        return self._decider.unread(event, problem)

    def record(self, accepted: Sequence[ParsedEvent]) -> list[str]:
        """Record events and make their deliveries. Returns the sinks that now have something due and must be woken:
        those without a runner in this process.

        Copies of an event are only counted. Raises LedgerUnavailable; nothing of the batch is recorded then.
        """
        unique: dict[str, ParsedEvent] = {}
        copies = [each.event for each in accepted if unique.setdefault(each.event.id, each) is not each]
        batch = list(unique.values())
        started = time.monotonic()
        recorded, due = self._record(batch) if batch else ([], set[str]())
        if batch:
            log.info(
                "dispatch.recorded events=%d new=%d deliveries=%d ms=%.1f",
                len(batch),
                len(recorded),
                sum(len(item.deliveries) for item in recorded),
                (time.monotonic() - started) * 1000,
            )
        for item in recorded:
            if item.disposition == "test":
                _log_test(item)
            self.counter.add_event(item.disposition, routed=bool(item.deliveries), unevaluated=item.failed_rules)
        new = {item.event.id for item in recorded}
        copies += [each.event for each in batch if each.event.id not in new]
        if webhooks := [each for each in copies if each.via == "webhook"]:
            self._ledger.write(lambda connection: write.count_copies(connection, webhooks))
        self.counter.flush(least=1000)  # memory is bounded also where nothing else flushes
        runners = dict(self._runners)  # another thread adds to them
        for sink in due & runners.keys():
            runners[sink].poke()
        return sorted(due - runners.keys())

    def _record(self, batch: Sequence[ParsedEvent]) -> tuple[list[NewEvent], set[str]]:
        """Record the batch; when the database refuses a value, halve it until the event to blame stands alone.

        Returns the new events, and the sinks that have something due that was not handed to a runner.
        """
        try:
            return self._commit(batch)
        except LedgerDataError as error:
            if len(batch) > 1:
                half = len(batch) // 2
                (first, due), (second, more) = self._record(batch[:half]), self._record(batch[half:])
                return first + second, due | more
            event = batch[0].event
            log.warning("dispatch.marked event=%s run=%s problem=%s", event.id, batch[0].run.run_id, error)
            return self._commit([self.unread(event, f"the ledger refused a value of it: {error}")])

    def _commit(self, batch: Sequence[ParsedEvent]) -> tuple[list[NewEvent], set[str]]:
        """Record the batch in one transaction, and hand what it has claimed to the runners."""
        polled: set[RunKey] = set()  # runs that any try of it may poll once more
        recorded: Recorded | None = None

        def work(connection: Connection) -> Recorded:
            nonlocal recorded
            written = self._in_transaction(connection, batch, polled)
            if recorded and not written.events:  # an earlier try was committed, though its COMMIT had no reply
                written = recorded._replace(claimed=self._still_claimed(connection, recorded.claimed))
            recorded = written
            return written

        recorded = self._ledger.write(work)
        for sink, claimed in recorded.claimed.items():
            self._runners[sink].take(claimed)
        return recorded.events, recorded.due

    def _still_claimed(self, connection: Connection, claimed: dict[str, list[Claimed]]) -> dict[str, list[Claimed]]:
        """Return the claims that are recorded, by sink, and renew them."""
        owner = next((self._runners[sink].owner for sink in claimed), "")
        recorded = [each for some in claimed.values() for each in some]
        kept = set(claims.renew(connection, owner, recorded, self._ledger.now() + CLAIM))
        return {sink: held for sink, some in claimed.items() if (held := [each for each in some if each in kept])}

    def _in_transaction(self, connection: Connection, batch: Sequence[ParsedEvent], polled: set[RunKey]) -> Recorded:
        now, runners = self._ledger.now(), dict(self._runners)
        room = {sink: places for sink, runner in runners.items() if (places := runner.room()) > 0}
        known, shut = load.load(connection, batch, room.keys(), now)

        new = self._decider.decide(batch, known)
        once_more = self._to_poll(new, known, now, polled)
        owner = next((runner.owner for runner in runners.values()), "")
        open_room = {sink: places for sink, places in room.items() if sink not in shut}
        claim = first_claim.choose_claim(new, open_room, owner, now)

        written = write.write(connection, new, known.keys(), now, claim)
        claimed = first_claim.claims_of(new, written.deliveries & claim.ids if claim else (), known, now)
        due = first_claim.sinks_due(written.events, claimed)
        polls.after_events(connection, batch, known, new, once_more, now)
        self._poll_restarted(connection, batch, now)
        new_ids = {item.event.id for item in new}
        for key in sorted(key for key, run in known.items() if run.late):
            if submission := known[key].submission:
                due.update(self._late.route_again(connection, key, submission, now, new_ids))
        return Recorded(written.events, claimed, due)

    def _poll_restarted(self, connection: Connection, batch: Sequence[ParsedEvent], now: float) -> None:
        """Poll the retries that Skyvern has started for runs of the batch."""
        for source, run_id in sorted({(each.key[0], each.run.retried_by or "") for each in batch if each.run.run_id}):
            if run_id and self.may_ask(source):
                polls.ask(connection, source, {run_id: now + poll_schedule.AFTER_RESTART}, now)

    def _to_poll(
        self, new: Sequence[NewEvent], known: Mapping[RunKey, RunHistory], now: float, allowed: set[RunKey]
    ) -> dict[RunKey, float]:
        """Return the runs to poll once more, with the time of the poll.

        `allowed`: runs that an earlier try of this transaction was allowed to poll; this call adds its own.
        """
        found: dict[RunKey, float] = {}
        for item in new:
            if item.key in known and known[item.key].submission:
                lacks, due_at = _may_be_restarted(item), now + poll_schedule.AFTER_RESTART
            else:
                lacks, due_at = _lacks_request(item), now + poll_schedule.FOR_MORE
            if lacks and item.key not in found and (item.key in allowed or self.may_ask(item.event.source)):
                found[item.key] = due_at
        allowed.update(found)
        return found


def _lacks_request(item: NewEvent) -> bool:
    """Whether it is a task's end that does not say what was asked for."""
    not_told = item.run.data.get("run_request", "") is None
    return not_told and item.disposition == "new" and item.event.via == "webhook" and item.run.final


def _may_be_restarted(item: NewEvent) -> bool:
    """Whether Skyvern may start the run again without saying so: the webhook of a run is sent before that."""
    may = item.disposition == "new" and item.run.run_type == WORKFLOW and item.run.outcome in RESTARTABLE
    return may and not item.run.retried_by


def _log_test(test: NewEvent) -> None:
    """Log that a test webhook arrived, and where it goes: often the first thing that a new user sends."""
    sinks = ",".join(each.sink for each in test.deliveries)
    log.info(
        "dispatch.test test webhook arrived, signature right: source=%s event=%s %s",
        test.event.source,
        test.event.id,
        f"sinks={sinks}" if sinks else "no route that matches says `test: true`, so it goes nowhere",
    )


def build(
    settings: Settings,
    config: Config,
    ledger: Ledger,
    connection: redis.Redis,
    runners: Mapping[str, Runner] = {},
) -> EventRecorder:
    """Build a recorder for these settings. `connection`: for its counters. `runners`: see EventRecorder."""
    counter, router, redactor = WorkerCounter(connection), make_router(config), Redactor(config.redact)
    return EventRecorder(ledger, router, redactor, counter, _asking(settings, config), runners)


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
