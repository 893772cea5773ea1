"""Records events: all events of a batch in one transaction.

The transaction locks the runs of the batch, reads what the ledger knows about them, lets the decider classify and route
each event, and writes the result. Polled and imported events are recorded here too, so nothing here knows the inbox.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from receiver.dispatch.decider import EventDecider
from receiver.dispatch.follow_up_polls import FollowUpPolls
from receiver.dispatch.hand_on import HandOn, runs_now
from receiver.dispatch.late_binding import LateBinding
from receiver.domain import poll_schedule
from receiver.domain.event import Event
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run, RunKey
from receiver.ledger import Connection, Ledger, LedgerDataError, events, run_polls
from receiver.ledger.earlier_events import EarlierEvents
from receiver.ledger.events import NO_RUN, NewEvent
from receiver.ledger.submissions import binding, visibility
from receiver.ledger.submissions.polls import schedule_polls
from receiver.routing.router import Router
from receiver.runtime.handover import Handover
from receiver.telemetry.workers import DispatchCounter

log = logging.getLogger("runhook.dispatch")


class Recorded(NamedTuple):
    """The new events of a batch, and the sinks whose deliverers have heard of them. `late`: the sinks that have
    something due of events before them, whose run was bound late."""

    events: list[NewEvent]
    answered: set[str]
    late: set[str]


class _Tries(NamedTuple):
    """What earlier tries of one transaction did: the events that they decided, by id, and the runs that they scheduled
    one more poll for."""

    events: dict[str, NewEvent]
    follow_ups: set[RunKey]


class EventRecorder:
    """Records events and makes their deliveries. `may_ask`: whether a source's API may be asked once more now,
    for what a webhook lacks. `handovers`: by sink, to deliverers of the same worker."""

    def __init__(
        self,
        ledger: Ledger,
        router: Router,
        redactor: Redactor,
        counter: DispatchCounter,
        may_ask: Callable[[str], bool] = lambda _: False,
        handovers: Mapping[str, Handover] = {},
    ) -> None:
        self._ledger = ledger
        self._decider = EventDecider(router, redactor)
        self._counter = counter
        self._follow_ups = FollowUpPolls(may_ask)
        self._handovers = handovers
        self._late = LateBinding(lambda: router, redactor)

    def dispatch(
        self,
        accepted: Collection[Event],
        parsed: Mapping[str, Run] = {},
        details: Mapping[str, Mapping[str, Any]] = {},
    ) -> list[str]:
        """Record events and make their deliveries. Returns the sinks that now have something due, and must be woken.

        `parsed`: the runs, by event id, of bodies that the caller has parsed already. `details`: what further calls of
        Skyvern's API answered, by event id: see shape.of_details. Raises LedgerUnavailable; nothing of the batch is
        recorded then.
        """
        unique = {event.id: event for event in accepted}.values()
        parse = self._decider.parse
        return self.record([parse(event, parsed.get(event.id), details.get(event.id, {})) for event in unique])

    def record(self, batch: Sequence[ParsedEvent]) -> list[str]:
        """Do the same with events that are parsed."""
        started = time.monotonic()
        recorded, answered, late = self._record(batch)
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
            self._counter.add(item.disposition, routed=bool(item.deliveries), unevaluated=item.failed_rules)
        due = {new.sink for item in recorded for new in item.deliveries if not new.after}
        return sorted((due - answered) | late)

    def _record(self, batch: Sequence[ParsedEvent]) -> Recorded:
        """Record the batch; when the database refuses a value, halve it until the event to blame stands alone."""
        if not batch:
            return Recorded([], set(), set())
        try:
            return self._commit(batch)
        except LedgerDataError as error:
            if len(batch) > 1:
                half = len(batch) // 2
                return _both(self._record(batch[:half]), self._record(batch[half:]))
            event = batch[0].event
            log.warning("dispatch.marked event=%s run=%s problem=%s", event.id, batch[0].run.run_id, error)
            return self._commit([self._decider.unread(event, f"the ledger refused a value of it: {error}")])

    def _commit(self, batch: Sequence[ParsedEvent]) -> Recorded:
        """Record the batch in one transaction."""
        tries = _Tries({}, set())
        hand_on, committed = HandOn(self._handovers), False
        try:
            recorded, late = self._ledger.write(lambda connection: self._write(connection, batch, hand_on, tries))
            committed = True
        finally:
            hand_on.answer(committed=committed)
        return Recorded(recorded, set(hand_on.sinks), late)

    def _write(
        self, connection: Connection, batch: Sequence[ParsedEvent], hand_on: HandOn, tries: _Tries
    ) -> tuple[list[NewEvent], set[str]]:
        """Lock the runs, decide about each event by what is known about its run, and write what is new.

        Returns the new events, and the sinks that have something due of runs that were bound late. An event that is
        already in the ledger but was decided by an earlier try counts as new: that try was committed, and the response
        to its COMMIT was lost.
        """
        now = self._ledger.now()
        of_runs = [each for each in batch if each.run.run_id and not each.run.test]
        wanted = [binding.Wanted.of(each) for each in of_runs]
        linked = [key for each in wanted for key in each.linked]
        only = events.only_events(of_runs)
        locked = events.lock(connection, [*(each.key for each in of_runs), *linked], now, only)
        candidates = binding.candidates(connection, wanted)
        known = events.known(connection, locked, now, only)
        named = {key: run.submission_id for key, run in known.items() if run.submission_id}
        bound = visibility.for_callers(connection, binding.bind(connection, wanted, candidates, now, named))
        histories = {key: list(run.history) for key, run in known.items()}
        earlier = EarlierEvents(connection)
        decided: list[NewEvent] = []
        for each in batch:
            key, run = each.key, known.get(each.key, NO_RUN)
            if each.event.id in run.recorded:
                continue  # its dispatcher was killed after the commit, or heard no reply to it
            history, more = histories.get(key, []), key not in only
            decided.append(self._decider.decide(each, history, run, bound.get(key), earlier, more=more))
        run_polls.ask_for_more(connection, self._follow_ups.wanted(decided, bound, now, tries.follow_ups))
        restarted = sorted({(each.source, each.retried_by) for each in wanted if each.retried_by})
        made = {key: each for key, each in only.items() if known[key].made}
        claims = hand_on.claims(decided, now)
        deciding = {item.event.id for item in decided}
        there = [tries.events[each.event.id] for each in batch if each.event.id in tries.events.keys() - deciding]
        tries.events.update((item.event.id, item) for item in decided)
        late = [key for key in bound if known[key].recorded and not known[key].submission_id]
        written = events.record(connection, decided, now, claims, made)
        schedule_polls(connection, batch, known, histories, bound, now)
        hand_on.made(connection, written, runs_now(decided, known, bound))
        for source, run_id in restarted:
            if self._follow_ups.may_ask(source):  # no submission is polled for that run
                run_polls.ask(connection, source, {run_id: now + poll_schedule.AFTER_RESTART}, now)
        told = [self._late.tell(connection, key, bound[key], now, deciding) for key in sorted(late)]
        return [*written.events, *there], set().union(*told)


def _both(one: Recorded, other: Recorded) -> Recorded:
    """Return what two parts of a batch came to. A sink counts as answered if it was by both that recorded any."""
    late = one.late | other.late
    if not (one.events and other.events):
        return (one if one.events else other)._replace(late=late)
    return Recorded(one.events + other.events, one.answered & other.answered, late)


def _log_test(test: NewEvent) -> None:
    """Log that a test webhook arrived, and where it goes: often the first thing that a new user sends."""
    sinks = ",".join(each.sink for each in test.deliveries)
    log.info(
        "dispatch.test test webhook arrived, signature right: source=%s event=%s %s",
        test.event.source,
        test.event.id,
        f"sinks={sinks}" if sinks else "no route that matches says `test: true`, so it goes nowhere",
    )
