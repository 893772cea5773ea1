"""Recording events: what each says, whether it is new, where it goes; all of a batch in one transaction.

Knows nothing of the inbox: what is polled or imported comes here too.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from receiver.dispatch.follow_up_polls import FollowUpPolls
from receiver.dispatch.from_submission import callers_webhook, with_request
from receiver.dispatch.hand_on import HandOn, RunNow, runs_now
from receiver.dispatch.late_binding import LateBinding
from receiver.domain import deduplication, poll_schedule
from receiver.domain.deduplication import Classification, Facts
from receiver.domain.event import Event
from receiver.domain.parsed_event import ParsedEvent, complete, parse_event, to_compare, unreadable
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run, RunKey
from receiver.ledger import Connection, Ledger, LedgerDataError, events, first_events, run_polls, statements
from receiver.ledger.earlier_events import EarlierEvents
from receiver.ledger.events import NO_RUN, KnownRun, NewDelivery, NewEvent
from receiver.ledger.statements import BoundStatement
from receiver.ledger.submissions import awaited, binding, visibility
from receiver.ledger.submissions.polls_after import first_ends, schedule_polls
from receiver.ledger.submissions.records import Submission
from receiver.routing.router import Router, RunView
from receiver.runtime.handover import Handover
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.workers import DispatchCounter

# What code raises for values that it is not made for. Trouble with the ledger is none of these.
OF_VALUES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

log = logging.getLogger("runhook.dispatch")


class Recorded(NamedTuple):
    """The new events of a batch, and the sinks whose deliverers have heard of them. `late`: the sinks that have
    something due of events before them, whose run was bound late."""

    events: list[NewEvent]
    answered: set[str]
    late: set[str]


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
        self._router = router
        self._redactor = redactor
        self._counter = counter
        self._again = FollowUpPolls(may_ask)
        self._handovers = handovers
        self._late = LateBinding(lambda: router, redactor)
        # Whether most of the last events that might be the first of their run were: then the next ones are expected to
        # be.
        self._expects_first = True
        self._bug_lines = TokenBucket(rate=1 / 60, burst=1)

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
        return self.take_in([self.parse(event, parsed.get(event.id), details.get(event.id, {})) for event in unique])

    def take_in(self, batch: Sequence[ParsedEvent]) -> list[str]:
        """Record events and make their deliveries. Returns as `dispatch`."""
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

    def parse(self, event: Event, run: Run | None = None, details: Mapping[str, Any] = {}) -> ParsedEvent:
        """Parse, redact and complete an event. Never raises: what can't be read is marked."""
        try:
            return parse_event(event, self._redactor, run, details)
        except Exception as error:  # noqa: BLE001 - it is logged with its traceback
            return self._marked(event, error)

    def _marked(self, event: Event, error: Exception) -> ParsedEvent:
        """Return an event that our own code could not handle."""
        log.error("dispatch.unreadable event=%s", event.id, exc_info=error)
        return self.unread(event, f"could not be read: {type(error).__name__}")

    def unread(self, event: Event, problem: str) -> ParsedEvent:
        """Return an event whose body is kept but not read, for `problem`."""
        return unreadable(event, self._redactor, problem)

    def _record(self, batch: Sequence[ParsedEvent]) -> Recorded:
        """Record the batch: what is the first event of its run at once, where most are expected to be that."""
        if not batch:
            return Recorded([], set(), set())
        likely = self._likely_first(batch)
        if not likely:
            return self._record_any(batch)
        hand_on, tries = HandOn(self._handovers), list[list[NewEvent]]()
        recorded = self._record_first(likely, hand_on, tries)
        there = {item.event.id for item in recorded.events}
        # In a transaction of its own, also on SQLite, where one of both would save 0.2 ms of CPU and a sync. But each
        # way has its own claims for what it hands on, and its own way out when a value is refused.
        if others := [each for each in batch if each.event.id not in there]:
            tried = {item.event.id: item for new in tries[:-1] for item in new}
            recorded = _both(recorded, self._record_any(others, tried, hand_on))
        self._expects_first = _most(len(there), len(likely))
        return recorded

    def _likely_first(self, batch: Sequence[ParsedEvent]) -> list[ParsedEvent]:
        """Return the events that are likely to be the first of their run; none where those are not most."""
        if not self._expects_first:
            return []
        keys = [each.key for each in batch]
        counts = Counter(keys)
        likely = [each for each, key in zip(batch, keys, strict=True) if counts[key] == 1 and each.may_be_first]
        return likely if _most(len(likely), len(batch)) else []

    def _record_first(self, batch: Sequence[ParsedEvent], hand_on: HandOn, tries: list[list[NewEvent]]) -> Recorded:
        """Record the events that are the first of their run: one that has come with a token only if the ledger knows
        that its run is of this submission. `hand_on`: answers, unless it is certain that there are none. `tries`: gets,
        of each try, what it was to record."""
        ordered = sorted(batch, key=attrgetter("key"))
        submitted: dict[RunKey, Submission] = {}
        decided: list[NewEvent] = []
        insertions = first_events.Insertions(())
        again: dict[RunKey, float] = {}  # when Skyvern is asked for a run once more

        def ask(connection: Connection) -> list[BoundStatement]:
            nonlocal insertions
            now = self._ledger.now()
            new = first_events.candidates(connection, decided, submitted)
            tries.append(new)
            self._again.give_back(again)  # of a try before this one
            again.clear()
            again.update(self._again.wanted(new, submitted, now))
            claims = hand_on.claims(new, now)
            insertions = first_events.insertions(connection, new, now, claims, again, submitted)
            return [*insertions.asked, *first_ends(new, submitted, now), *hand_on.looks()]

        recorded: list[NewEvent] | None = None
        try:
            submitted |= self._awaited(batch)
            ordered = [each for each in ordered if not each.event.submission_id or each.key in submitted]
            if not ordered:
                recorded = []
                return Recorded([], set(), set())
            # Before the transaction: on SQLite nobody else writes meanwhile.
            decided += [self._classify(each, [], NO_RUN, submitted.get(each.key)) for each in ordered]
            found = self._ledger.write_at_once(ask)
            written = first_events.written(tries[-1], insertions, found)
            labels = {key: submission.labels for key, submission in submitted.items()}
            hand_on.made(written, lambda key: RunNow(labels.get(key, {}), 1))
            recorded = written.events
        except LedgerDataError:
            pass  # the other way finds which event is to blame
        except OF_VALUES as error:  # so it does here, but a bug of this way alone shows nowhere else
            if self._bug_lines.take(1, time.monotonic()):
                log.warning("dispatch.other_way events=%d first=%s", len(batch), batch[0].event.id, exc_info=error)
        finally:
            if recorded != []:
                hand_on.answer(committed=recorded is not None)
        self._again.give_back(again.keys() - {item.key for item in recorded or ()})
        return Recorded(recorded or [], set(hand_on.sinks), set())

    def _awaited(self, batch: Sequence[ParsedEvent]) -> dict[RunKey, Submission]:
        """Return the submissions whose tokens these events have come with, of runs that have no event yet."""
        tokens = {each.event.submission_id for each in batch} - {""}
        return awaited.by_run(self._ledger.read_at_once(awaited.reading(tokens))[0]) if tokens else {}

    def _record_any(
        self, batch: Sequence[ParsedEvent], tried: Mapping[str, NewEvent] = {}, hand_on: HandOn | None = None
    ) -> Recorded:
        """Record the batch; when the database refuses a value, halve it until the one to blame stands alone.

        `tried`: see `_decide`. `hand_on`: of a try before this one.
        """
        try:
            return self._write(batch, tried, hand_on)
        except LedgerDataError as error:
            if len(batch) > 1:
                half = len(batch) // 2
                return _both(self._record_any(batch[:half], tried), self._record_any(batch[half:], tried))
            event = batch[0].event
            log.warning("dispatch.marked event=%s run=%s problem=%s", event.id, batch[0].run.run_id, error)
            marked = self.unread(event, f"the ledger refused a value of it: {error}")
            return self._write([marked])

    def _write(
        self, batch: Sequence[ParsedEvent], tried: Mapping[str, NewEvent] = {}, hand_on: HandOn | None = None
    ) -> Recorded:
        hand_on = HandOn(self._handovers) if hand_on is None or hand_on.answered else hand_on
        so_far, committed = dict(tried), False
        try:
            recorded, late = self._ledger.write(lambda connection: self._decide(connection, batch, hand_on, so_far))
            committed = True
        finally:
            hand_on.answer(committed=committed)
        return Recorded(recorded, set(hand_on.sinks), late)

    def _decide(
        self, connection: Connection, batch: Sequence[ParsedEvent], hand_on: HandOn, tried: dict[str, NewEvent]
    ) -> tuple[list[NewEvent], set[str]]:
        """Classify and route each event by what the ledger knows of its run, and record it. Returns the new ones, and
        the sinks that have something due of runs that were bound late.

        `tried`: by id, what earlier tries of this transaction were to record. What of it turns out to be there was
        committed by one whose reply was lost, and is new as well.
        """
        now = self._ledger.now()
        of_runs = [each for each in batch if each.run.run_id and not each.run.test]
        wanted = [binding.Wanted.of(each) for each in of_runs]
        linked = [key for each in wanted for key in each.linked]
        only = events.only_events(of_runs)
        locked, candidates = statements.run(
            connection,
            events.lock(connection, [*(each.key for each in of_runs), *linked], now, only),
            binding.candidates(wanted),
        )
        known = events.known(connection, locked, now, only)
        named = {key: run.submission_id for key, run in known.items() if run.submission_id}
        bound = visibility.for_callers(connection, binding.bind(connection, wanted, candidates, now, named))
        histories = {key: list(run.history) for key, run in known.items()}
        earlier = EarlierEvents(connection)
        decided: list[NewEvent] = []
        for each in batch:
            run, submission = known.get(each.key, NO_RUN), bound.get(each.key)
            if each.event.id in run.recorded:
                continue  # its dispatcher was killed after the commit, or heard no reply to it
            if each.facts is None:
                decided.append(_new_event(each, "unreadable"))
            elif each.run.test:
                decided.append(self._route(each, deduplication.TEST, NO_RUN, None, ()))
            else:
                history = histories[each.key]
                try:
                    decided.append(self._classify(each, history, run, submission, earlier, more=each.key not in only))
                except OF_VALUES as error:  # it keeps none of the others waiting
                    decided.append(_new_event(self._marked(each.event, error), "unreadable"))
        run_polls.ask_for_more(connection, self._again.wanted(decided, bound, now))
        restarted = sorted({(each.source, each.retried_by) for each in wanted if each.retried_by})
        made = {key: each for key, each in only.items() if known[key].made}
        first = [_was_first(each, known[each.key], bound) for each in batch if each.may_be_first]
        self._expects_first = _most(sum(first), len(first))
        claims = hand_on.claims(decided, now)
        then = [*schedule_polls(batch, known, histories, bound, now), *hand_on.looks()]
        deciding = {item.event.id for item in decided}
        there = [tried[each.event.id] for each in batch if each.event.id in tried.keys() - deciding]
        tried.update((item.event.id, item) for item in decided)
        late = [key for key in bound if known[key].recorded and not known[key].submission_id]
        written = events.record(connection, decided, now, claims, made, then, commit=not (restarted or late))
        hand_on.made(written, runs_now(decided, known, bound).get)
        for source, run_id in restarted:
            if self._again.may_ask(source):  # no submission is polled for that run
                run_polls.ask(connection, source, {run_id: now + poll_schedule.AFTER_RESTART}, now)
        told = [self._late.tell(connection, key, bound[key], now, deciding) for key in sorted(late)]
        return [*written.events, *there], set().union(*told)

    def _classify(
        self,
        parsed: ParsedEvent,
        history: list[Facts],
        run: KnownRun,
        submission: Submission | None,
        earlier: EarlierEvents | None = None,
        *,
        more: bool = False,
    ) -> NewEvent:
        """Complete, classify and route one readable event, and add its facts to the `history` of its run.

        The first of a run is recorded with facts that are not whole, whatever comes with it. `earlier`: not needed
        without a history. `more`: the batch has another, with which it is compared.
        """
        if submission:
            parsed = with_request(parsed, submission, self._redactor)
        if history:
            parsed = to_compare(parsed)
        own = parsed.facts
        assert own is not None
        if history:
            own = own._replace(seq=history[-1].seq + 1)
        found = deduplication.classify(own, history)
        told: Collection[str] = ()
        if history and earlier and (completion := earlier.completion(parsed.run.data, own, history)):
            parsed = complete(parsed, self._redactor, completion)
            own = own._replace(extent=parsed.facts.extent if parsed.facts else "")
        if found.disposition == "update" and earlier:
            told = earlier.sinks_told(parsed.key, own, history)
        history.append((not history and more and to_compare(parsed).facts) or own)
        event = self._route(parsed, found, run, submission, told)
        if more and earlier:
            earlier.add(parsed.run.data, event)
        return event

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
        labels = submission.labels if submission else run.labels
        view = RunView(parsed.run, event.source, event.via, found.disposition, labels, event.received_at, event.id)
        verdict = self._router.match(view, told=told)
        failed = [each for each in verdict.explanations if each.error]
        notes = [parsed.run.note] if parsed.run.left_out else []
        notes += [f"route {each.route} {each.why}" for each in failed]
        tells_more = found.disposition in ("new", "interim")
        deliveries = [NewDelivery(each.sink, each.route, "", each.after) for each in verdict.targets]
        if webhook := callers_webhook(submission, found.disposition, parsed.run):
            deliveries.append(webhook)
        return _new_event(
            parsed,
            found.disposition,
            repeat_of=found.repeat_of,
            newest=(tells_more and not found.late) or found.disposition == "update",
            note="; ".join(notes),
            failed_rules=tuple(each.route for each in failed),
            deliveries=tuple(deliveries),
        )


def _was_first(each: ParsedEvent, run: KnownRun, bound: Collection[RunKey]) -> bool:
    """Whether an event could have been recorded as the first one of its run."""
    if each.key not in bound:
        return run.made
    return not run.recorded and bool(run.submission_id) and run.submission_id == each.event.submission_id


def _most(some: int, of_all: int) -> bool:
    """Whether these are so many that to record them by themselves is worth a further request for the others."""
    return 4 * some >= 3 * of_all


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


def _new_event(parsed: ParsedEvent, disposition: str, **more: Any) -> NewEvent:
    return NewEvent(
        parsed.event, parsed.run, parsed.body, parsed.facts, disposition, completion=parsed.completion, **more
    )
