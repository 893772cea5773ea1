"""Parse, deduplicate and route one event. Writes nothing: recorder.py writes a batch at a time."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from receiver.domain import attention, callback, deduplication
from receiver.domain.deduplication import Classification, Facts
from receiver.domain.event import ERASED, Event
from receiver.domain.extent import extent_of
from receiver.domain.parsed_event import ParsedEvent, complete, parse_event, unreadable
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run, storable
from receiver.domain.shape import completion_of
from receiver.ledger.events import NO_RUN, KnownRun, NewDelivery, NewEvent
from receiver.ledger.history import EarlierEvents
from receiver.ledger.submissions.records import Submission
from receiver.routing.router import Router, RunView

# Errors that code raises for unexpected values. The ledger raises other errors.
OF_VALUES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

log = logging.getLogger("runhook.dispatch")


class EventDecider:
    """Parses, classifies and routes events one by one."""

    def __init__(self, router: Router, redactor: Redactor) -> None:
        self._router = router
        self._redactor = redactor

    def parse(self, event: Event, run: Run | None = None, details: Mapping[str, Any] = {}) -> ParsedEvent:
        """Parse, redact and complete an event; see `parse_event`. Never raises: an unreadable event is marked."""
        try:
            return parse_event(event, self._redactor, run, details)
        except Exception as error:  # noqa: BLE001 - it is logged with its traceback
            return self._marked(event, error)

    def _marked(self, event: Event, error: Exception) -> ParsedEvent:
        """Return an event that Runhook's code could not handle."""
        log.error("dispatch.unreadable event=%s", event.id, exc_info=error)
        return self.unread(event, f"could not be read: {type(error).__name__}")

    def unread(self, event: Event, problem: str) -> ParsedEvent:
        """Return an event whose body is kept but not read, for `problem`."""
        return unreadable(event, self._redactor, problem)

    def decide(
        self,
        parsed: ParsedEvent,
        history: list[Facts],
        run: KnownRun,
        submission: Submission | None,
        earlier: EarlierEvents,
    ) -> NewEvent:
        """Return what to record of an event, as `classify` does, but mark an event whose values raise errors."""
        if run.erased:  # that it came is all that is kept of it
            bare = parsed._replace(body=b"", facts=None, completion={})
            return _new_event(bare, "test" if parsed.run.test else "superseded", note=ERASED)
        if parsed.facts is None:
            return _new_event(parsed, "unreadable")
        if parsed.run.test:
            return self._route(parsed, deduplication.TEST, NO_RUN, None, ())
        try:
            return self.classify(parsed, history, run, submission, earlier)
        except OF_VALUES as error:  # it must not block other events
            return _new_event(self._marked(parsed.event, error), "unreadable")

    def classify(
        self,
        parsed: ParsedEvent,
        history: list[Facts],
        run: KnownRun,
        submission: Submission | None,
        earlier: EarlierEvents | None = None,
    ) -> NewEvent:
        """Complete, classify and route one readable event, and add its facts to the `history` of its run.

        `earlier`: not needed without a history.
        """
        if submission:
            parsed = with_request(parsed, submission, self._redactor)
        own = parsed.facts
        assert own is not None
        if history:
            own = own._replace(seq=history[-1].seq + 1)
        found = deduplication.classify(own, history)
        told: Collection[str] = ()
        if history and earlier and (completion := earlier.completion(parsed.run.data, own, history)):
            parsed = complete(parsed, self._redactor, completion)
            own = own._replace(extent=extent_of(parsed.run.data))
        if found.disposition == "update" and earlier:
            told = earlier.sinks_told(own, history)
        history.append(own)
        event = self._route(parsed, found, run, submission, told)
        if earlier:
            earlier.add(event.event.id, parsed.run.data, [each.sink for each in event.deliveries])
        return event

    def _route(
        self,
        parsed: ParsedEvent,
        found: Classification,
        run: KnownRun,
        submission: Submission | None,
        told: Collection[str],
    ) -> NewEvent:
        """Return the event with its deliveries. `told`: the sinks that do not get an update of the result again."""
        event = parsed.event
        labels = submission.labels if submission else run.labels
        view = RunView(parsed.run, event.source, event.via, found.disposition, labels, event.received_at, event.id)
        verdict = self._router.match(view, earlier_sinks=told)
        failed = [each for each in verdict.explanations if each.error]
        notes = [parsed.run.reading_note] if parsed.run.left_out else []
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


def with_request(parsed: ParsedEvent, submission: Submission, redactor: Redactor) -> ParsedEvent:
    """Return an event completed with members of its submission's request, or unchanged if it lacks none."""
    if submission.request is None:
        return parsed
    request, older = storable(submission.request), submission.call.startswith("legacy")
    found = completion_of(parsed.run.data, request=request, older=older)
    return complete(parsed, redactor, found) if found else parsed


def callers_webhook(submission: Submission | None, disposition: str, run: Run) -> NewDelivery | None:
    """Return the delivery to the webhook of a submission's caller, or None if Skyvern would not send one.

    Skyvern sends one for the end of each attempt, but not for a run that is paused or waits.
    """
    if submission is None or not submission.webhook_url:
        return None
    if disposition not in ("new", "interim") or run.status in attention.ACTIVE:
        return None
    return NewDelivery(callback.CALLBACK, callback.ROUTE, callback.lane_of(submission.webhook_url, submission.key_id))


def _new_event(parsed: ParsedEvent, disposition: str, **more: Any) -> NewEvent:
    return NewEvent(
        parsed.event, parsed.run, parsed.body, parsed.facts, disposition, completion=parsed.completion, **more
    )
