"""Decide what to record of a batch of events: parse, deduplicate and route them. Pure, except for log lines."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from handlers.registry import sink_type
from receiver.config.models import Config
from receiver.dispatch.missing import missing, note_of
from receiver.domain import attention, callback, deduplication
from receiver.domain.deduplication import Classification
from receiver.domain.event import ERASED, Event
from receiver.domain.extent import extent_of
from receiver.domain.history import NO_HISTORY, RunHistory
from receiver.domain.new_event import NewDelivery, NewEvent
from receiver.domain.parsed_event import ParsedEvent, complete, parse_event, unreadable
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run, RunKey, storable
from receiver.domain.shape import completion_of
from receiver.domain.submission import Submission
from receiver.routing.router import Router, RunView

# Errors that code raises for unexpected values. The ledger raises other errors.
OF_VALUES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

log = logging.getLogger("runhook.dispatch")


class EventDecider:
    """Parses, classifies and routes events."""

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

    def decide(self, batch: Iterable[ParsedEvent], known: Mapping[RunKey, RunHistory]) -> list[NewEvent]:
        """Return what to record of a batch, without the events that are recorded. `known`: the runs before it.

        Marks an event whose values raise errors.
        """
        histories, decided = dict(known), []
        for each in batch:
            history = histories.get(each.key, NO_HISTORY)
            if each.event.id in history.recorded:
                continue
            event = self._decide(each, history)
            decided.append(event)
            if event.facts and event.disposition != "test":
                sinks = [delivery.sink for delivery in event.deliveries]
                histories[each.key] = history.with_event(event.facts, event.run.data, sinks)
        return decided

    def _decide(self, parsed: ParsedEvent, history: RunHistory) -> NewEvent:
        if history.erased:  # that it came is all that is kept of it
            bare = parsed._replace(body=b"", facts=None, completion={})
            return _new_event(bare, "test" if parsed.run.test else "superseded", note=ERASED)
        if parsed.facts is None:
            return _new_event(parsed, "unreadable")
        if parsed.run.test:
            return self._route(parsed, deduplication.TEST, NO_HISTORY)
        try:
            return self._classify(parsed, history)
        except OF_VALUES as error:  # it must not block other events
            return _new_event(self._marked(parsed.event, error), "unreadable")

    def _classify(self, parsed: ParsedEvent, history: RunHistory) -> NewEvent:
        """Complete, classify and route a readable event."""
        if history.submission:
            parsed = with_request(parsed, history.submission, self._redactor)
        assert parsed.facts is not None
        if not history.facts:
            return self._route(parsed, deduplication.classify(parsed.facts, ()), history)
        facts = parsed.facts._replace(seq=history.facts[-1].seq + 1)
        found = deduplication.classify(facts, history.facts)
        if completion := history.completion(facts, parsed.run.data):
            parsed = complete(parsed, self._redactor, completion)
            facts = facts._replace(extent=extent_of(parsed.run.data))
        told = history.sinks_told(facts) if found.disposition == "update" else ()
        return self._route(parsed._replace(facts=facts), found, history, told)

    def _route(
        self,
        parsed: ParsedEvent,
        found: Classification,
        history: RunHistory,
        told: Collection[str] = (),
    ) -> NewEvent:
        """Return the event with its deliveries. `told`: the sinks that do not get an update of the result again."""
        event = parsed.event
        of_event = event.source, event.via, found.disposition, history.labels, event.received_at, event.id
        verdict = missing(RunView(parsed.run, *of_event), self._router, (), outdated=told)
        tells_more = found.disposition in ("new", "interim")
        deliveries = [NewDelivery(each.sink, each.route, "", each.after) for each in verdict.targets]
        if webhook := callers_webhook(history.submission, found.disposition, parsed.run):
            deliveries.append(webhook)
        return _new_event(
            parsed,
            found.disposition,
            repeat_of=found.repeat_of,
            newest=(tells_more and not found.late) or found.disposition == "update",
            note=note_of(parsed.run, verdict),
            failed_rules=tuple(each.route for each in verdict.explanations if each.error),
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


def make_router(config: Config) -> Router:
    """Return what routes by the rules of this config. Updates complete what sinks keep whose type takes them."""
    return Router(config.routes, [name for name, sink in config.sinks.items() if sink_type(sink.type).takes_updates])
