"""Recording events, all of a batch in one transaction: each is decided about by what the ledger knows of its run.

Knows nothing of the inbox: what is polled or imported comes here too. There are two ways to record. Most events are the
first of their run: where most of a batch are expected to be, these are decided about first, and recorded in one request
that writes nothing for a run that is known (ledger/first_events.py). All others are recorded with their runs locked.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from receiver.dispatch.decider import OF_VALUES, EventDecider
from receiver.dispatch.follow_up_polls import FollowUpPolls
from receiver.dispatch.hand_on import HandOn, RunNow, runs_now
from receiver.dispatch.late_binding import LateBinding
from receiver.domain import poll_schedule
from receiver.domain.event import Event
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run, RunKey
from receiver.ledger import Connection, Ledger, LedgerDataError, events, first_events, run_polls, statements
from receiver.ledger.earlier_events import EarlierEvents
from receiver.ledger.events import NO_RUN, KnownRun, NewEvent
from receiver.ledger.statements import BoundStatement
from receiver.ledger.submissions import awaited, binding, visibility
from receiver.ledger.submissions.polls import first_ends, schedule_polls
from receiver.ledger.submissions.records import Submission
from receiver.routing.router import Router
from receiver.runtime.handover import Handover
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.workers import DispatchCounter

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
        self._decider = EventDecider(router, redactor)
        self._counter = counter
        self._follow_ups = FollowUpPolls(may_ask)
        self._handovers = handovers
        self._late = LateBinding(lambda: router, redactor)
        # Whether most of the last events that might have been the first of their run were.
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
        """Record the batch in one of the two ways, or a part of it in each."""
        if not batch:
            return Recorded([], set(), set())
        likely = self._likely_first(batch)
        if not likely:
            return self._record_locked(batch)
        hand_on = HandOn(self._handovers)
        recorded, tried = self._record_first(likely, hand_on)
        there = {item.event.id for item in recorded.events}
        # In a transaction of its own, also on SQLite, where one of both would save 0.2 ms of CPU and a sync. But each
        # way has its own claims for what it hands on, and its own way out when a value is refused.
        if others := [each for each in batch if each.event.id not in there]:
            recorded = _both(recorded, self._record_locked(others, tried, hand_on))
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

    def _record_first(self, batch: Sequence[ParsedEvent], hand_on: HandOn) -> tuple[Recorded, dict[str, NewEvent]]:
        """Record the events that are the first of their run: one that has come with a token only if the ledger knows
        that its run is of this submission.

        Returns also what tries before the last were to record: see `_write`. `hand_on` answers, unless it is certain
        that nothing was recorded.
        """
        ordered = sorted(batch, key=attrgetter("key"))
        submitted: dict[RunKey, Submission] = {}
        decided: list[NewEvent] = []
        insertions = first_events.Insertions(())
        tries: list[list[NewEvent]] = []  # what each was to record
        follow_ups: dict[RunKey, float] = {}  # when Skyvern is asked for a run once more

        def ask(connection: Connection) -> list[BoundStatement]:
            nonlocal insertions
            now = self._ledger.now()
            new = first_events.candidates(connection, decided, submitted)
            tries.append(new)
            self._follow_ups.give_back(follow_ups)  # of a try before this one
            follow_ups.clear()
            follow_ups.update(self._follow_ups.wanted(new, submitted, now))
            claims = hand_on.claims(new, now)
            insertions = first_events.insertions(connection, new, now, claims, follow_ups, submitted)
            return [*insertions.asked, *first_ends(new, submitted, now), *hand_on.looks()]

        recorded: list[NewEvent] | None = None
        try:
            submitted |= self._awaited(batch)
            ordered = [each for each in ordered if not each.event.submission_id or each.key in submitted]
            if not ordered:
                recorded = []
                return Recorded([], set(), set()), {}
            # Before the transaction: on SQLite nobody else writes meanwhile.
            decided += [self._decider.classify(each, [], NO_RUN, submitted.get(each.key)) for each in ordered]
            found = self._ledger.write_at_once(ask)
            written = first_events.written(tries[-1], insertions, found)
            labels = {key: submission.labels for key, submission in submitted.items()}
            hand_on.made(written, lambda key: RunNow(labels.get(key, {}), 1))
            recorded = written.events
        except LedgerDataError:
            pass  # `_record_locked` finds which event is to blame
        except OF_VALUES as error:  # so it does here, but a bug of this way alone shows nowhere else
            if self._bug_lines.take(1, time.monotonic()):
                log.warning("dispatch.other_way events=%d first=%s", len(batch), batch[0].event.id, exc_info=error)
        finally:
            if recorded != []:
                hand_on.answer(committed=recorded is not None)
        self._follow_ups.give_back(follow_ups.keys() - {item.key for item in recorded or ()})
        tried = {item.event.id: item for new in tries[:-1] for item in new}
        return Recorded(recorded or [], set(hand_on.sinks), set()), tried

    def _awaited(self, batch: Sequence[ParsedEvent]) -> dict[RunKey, Submission]:
        """Return the submissions whose tokens these events have come with, of runs that have no event yet."""
        tokens = {each.event.submission_id for each in batch} - {""}
        return awaited.by_run(self._ledger.read_at_once(awaited.reading(tokens))[0]) if tokens else {}

    def _record_locked(
        self, batch: Sequence[ParsedEvent], tried: Mapping[str, NewEvent] = {}, hand_on: HandOn | None = None
    ) -> Recorded:
        """Record the batch; when the database refuses a value, halve it until the one to blame stands alone.

        `tried`: see `_write`. `hand_on`: of `_record_first`, if that was tried.
        """
        try:
            return self._commit(batch, tried, hand_on)
        except LedgerDataError as error:
            if len(batch) > 1:
                half = len(batch) // 2
                return _both(self._record_locked(batch[:half], tried), self._record_locked(batch[half:], tried))
            event = batch[0].event
            log.warning("dispatch.marked event=%s run=%s problem=%s", event.id, batch[0].run.run_id, error)
            return self._commit([self._decider.unread(event, f"the ledger refused a value of it: {error}")])

    def _commit(
        self, batch: Sequence[ParsedEvent], tried: Mapping[str, NewEvent] = {}, hand_on: HandOn | None = None
    ) -> Recorded:
        hand_on = HandOn(self._handovers) if hand_on is None or hand_on.answered else hand_on
        so_far, committed = dict(tried), False
        try:
            recorded, late = self._ledger.write(lambda connection: self._write(connection, batch, hand_on, so_far))
            committed = True
        finally:
            hand_on.answer(committed=committed)
        return Recorded(recorded, set(hand_on.sinks), late)

    def _write(
        self, connection: Connection, batch: Sequence[ParsedEvent], hand_on: HandOn, tried: dict[str, NewEvent]
    ) -> tuple[list[NewEvent], set[str]]:
        """Lock the runs, decide about each event by what is known of its run, and write what is new. Returns the new
        events, and the sinks that have something due of runs that were bound late.

        `tried`: by id, what earlier tries were to record; this one adds its own. An event of these that turns out to be
        there was committed by a try whose reply was lost, and is new as well.
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
            key, run = each.key, known.get(each.key, NO_RUN)
            if each.event.id in run.recorded:
                continue  # its dispatcher was killed after the commit, or heard no reply to it
            history, more = histories.get(key, []), key not in only
            decided.append(self._decider.decide(each, history, run, bound.get(key), earlier, more=more))
        run_polls.ask_for_more(connection, self._follow_ups.wanted(decided, bound, now))
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
            if self._follow_ups.may_ask(source):  # no submission is polled for that run
                run_polls.ask(connection, source, {run_id: now + poll_schedule.AFTER_RESTART}, now)
        told = [self._late.tell(connection, key, bound[key], now, deciding) for key in sorted(late)]
        return [*written.events, *there], set().union(*told)


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
