"""Records events: all events of a batch in one transaction.

The transaction locks the runs of the batch, reads what the ledger knows about them, lets the decider classify and route
each event, and writes the result. Polled and imported events are recorded here too, so nothing here knows the inbox.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from receiver.delivery.runner import SinkRunner
from receiver.dispatch import born_claimed
from receiver.dispatch.decider import EventDecider
from receiver.dispatch.late_binding import LateBinding
from receiver.domain import poll_schedule
from receiver.domain.event import Event
from receiver.domain.members import WORKFLOW
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.redaction import Redactor
from receiver.domain.run import RESTARTABLE, Run, RunKey
from receiver.domain.time_limits import CLAIM
from receiver.ledger import Connection, Ledger, LedgerDataError, events, run_polls
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.events import NO_RUN, NewEvent
from receiver.ledger.history import EarlierEvents
from receiver.ledger.submissions import binding, records
from receiver.ledger.submissions.polls import schedule_polls
from receiver.routing.router import Router
from receiver.telemetry.workers import WorkerCounter

log = logging.getLogger("runhook.dispatch")


class Recorded(NamedTuple):
    """The new events of a batch; what of their deliveries was claimed for runners of this process, by sink; and the
    sinks that have something else due: of these events, or of earlier ones whose run was bound late."""

    events: list[NewEvent]
    claimed: dict[str, list[Claimed]]
    due: set[str]


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
        runners: Mapping[str, SinkRunner] = {},
    ) -> None:
        self._ledger = ledger
        self._decider = EventDecider(router, redactor)
        self._counter = counter
        self.may_ask = may_ask
        self._runners = runners
        self._late = LateBinding(lambda: router, redactor)

    def dispatch(
        self,
        accepted: Collection[Event],
        parsed: Mapping[str, Run] = {},
        details: Mapping[str, Mapping[str, Any]] = {},
    ) -> list[str]:
        """Record events and make their deliveries. Returns the sinks that now have something due and must be woken:
        those without a runner in this process.

        `parsed`: the runs, by event id, of bodies that the caller has parsed already. `details`: what further calls of
        Skyvern's API answered, by event id: see shape.of_details. Raises LedgerUnavailable; nothing of the batch is
        recorded then.
        """
        unique: dict[str, Event] = {}
        copies = [event for event in accepted if unique.setdefault(event.id, event) is not event]
        parse = self._decider.parse
        batch = [parse(event, parsed.get(event.id), details.get(event.id, {})) for event in unique.values()]
        return self.record(batch, copies)

    def record(self, batch: Sequence[ParsedEvent], copies: Sequence[Event] = ()) -> list[str]:
        """Do the same with events that are parsed. `copies`: of events of the batch, which are only counted."""
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
            self._counter.add_event(item.disposition, routed=bool(item.deliveries), unevaluated=item.failed_rules)
        new = {item.event.id for item in recorded}
        copies = [*copies, *(each.event for each in batch if each.event.id not in new)]
        if webhooks := [each for each in copies if each.via == "webhook"]:
            self._ledger.write(lambda connection: events.count_copies(connection, webhooks))
        self._counter.flush(least=1000)  # memory is bounded also where nothing else flushes
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
            return self._commit([self._decider.unread(event, f"the ledger refused a value of it: {error}")])

    def _commit(self, batch: Sequence[ParsedEvent]) -> tuple[list[NewEvent], set[str]]:
        """Record the batch in one transaction, and hand what it has claimed to the runners."""
        polled: set[RunKey] = set()  # runs that any try of it may poll once more
        recorded: Recorded | None = None

        def work(connection: Connection) -> Recorded:
            nonlocal recorded
            written = self._write(connection, batch, polled)
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

    def _write(self, connection: Connection, batch: Sequence[ParsedEvent], polled: set[RunKey]) -> Recorded:
        """Lock the runs, decide about each event by what is known about its run, and write what is new."""
        now = self._ledger.now()
        of_runs = [each for each in batch if each.run.run_id and not each.run.test]
        wanted = [binding.Wanted.of(each) for each in of_runs]
        linked = [key for each in wanted for key in each.linked]
        locked = events.lock(connection, [*(each.key for each in of_runs), *linked], now)
        erased = events.erased(connection, [each.key for each in batch if each.run.test])
        candidates = binding.candidates(connection, wanted)
        known = erased | events.known(connection, locked)
        named = {key: run.submission_id for key, run in known.items() if run.submission_id}
        bound = records.for_callers(connection, binding.bind(connection, wanted, candidates, now, named))
        histories = {key: list(run.history) for key, run in known.items()}
        earlier = EarlierEvents(connection)
        new = [  # without those whose dispatcher was killed after the commit, or heard no reply to it
            self._decider.decide(each, histories.get(each.key, []), run, bound.get(each.key), earlier)
            for each in batch
            if each.event.id not in (run := known.get(each.key, NO_RUN)).recorded
        ]
        run_polls.ask_for_more(connection, self._to_poll(new, bound, now, polled))
        claim = born_claimed.choose_claim(connection, self._runners, new, now) if self._runners else None
        written = events.record(connection, new, now, claim)
        ids = written.deliveries.intersection(claim.ids) if claim else ()
        claimed = born_claimed.claims_of(new, ids, known, bound, now) if ids else {}
        schedule_polls(connection, batch, known, histories, bound, now)
        for source, run_id in sorted({(each.source, each.retried_by) for each in wanted if each.retried_by}):
            if self.may_ask(source):  # no submission is polled for that run
                run_polls.ask(connection, source, {run_id: now + poll_schedule.AFTER_RESTART}, now)
        due = born_claimed.sinks_due(written.events, claimed)
        new_ids = {item.event.id for item in new}
        for key in sorted(key for key in bound if known[key].recorded and not known[key].submission_id):
            due.update(self._late.route_again(connection, key, bound[key], now, new_ids))
        return Recorded(written.events, claimed, due)

    def _to_poll(
        self, new: Sequence[NewEvent], submitted: Collection[RunKey], now: float, allowed: set[RunKey]
    ) -> dict[RunKey, float]:
        """Return the runs to poll once more, with the time of the poll. `submitted`: runs that have a submission.

        `allowed`: runs that an earlier try of this transaction was allowed to poll; this call adds its own.
        """
        found: dict[RunKey, float] = {}
        for item in new:
            if item.key in submitted:
                polls, due_at = _may_be_restarted(item), now + poll_schedule.AFTER_RESTART
            else:
                polls, due_at = _lacks_request(item), now + poll_schedule.FOR_MORE
            if polls and item.key not in found and (item.key in allowed or self.may_ask(item.event.source)):
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
