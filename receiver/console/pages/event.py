"""One event: what it says, as it came and as sinks get it, and where it went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.deliveries import LIST_ATTEMPTS, LIST_DELIVERIES
from receiver.api.events import GET_EVENT, GET_EVENT_BODY
from receiver.api.models import MAX_LIMIT
from receiver.api.outline import outline
from receiver.api.rows import EventRow
from receiver.api.service import Actor, Service
from receiver.console.page import ConsolePage, Query, event_path
from receiver.console.pages.run import attempts_by_delivery, failures_first
from receiver.errors import TooLarge

# Characters of a body that are shown; all of it can be saved.
_MOST_TEXT: Final = 64 << 10


def event(service: Service, actor: Actor, names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return one event with its body and its deliveries."""
    told = GET_EVENT.call(service, actor, GET_EVENT.parse(names, query))
    found = told.event
    of_event = {"event_id": found.id, "source": found.source, "limit": MAX_LIMIT}
    deliveries = LIST_DELIVERIES.call(service, actor, LIST_DELIVERIES.validated(of_event)).items
    attempts = LIST_ATTEMPTS.call(service, actor, LIST_ATTEMPTS.validated(of_event)).items
    text, left = _body(service, actor, found)
    return {
        "title": f"Event {found.id}",
        "here": "Runs",
        "event": found,
        "facts": _facts(found),
        "tree": outline(told.run) if told.run else None,
        "note": told.note,
        "text": text,
        "left": left,
        "deliveries": failures_first(deliveries),
        "attempts": attempts_by_delivery(attempts),
    }


def _body(service: Service, actor: Actor, found: EventRow) -> tuple[str, int]:
    """Return the text of the body, and how many characters of it are left out."""
    wanted = {"event_id": found.id, "source": found.source}
    try:
        kept = GET_EVENT_BODY.call(service, actor, GET_EVENT_BODY.validated(wanted))
    except TooLarge:
        return "", found.size
    text = kept.content().decode("utf-8", "backslashreplace")
    return text[:_MOST_TEXT], max(0, len(text) - _MOST_TEXT)


def _facts(found: EventRow) -> list[tuple[str, str, str]]:
    """Return name, value, and where that leads to, if it is not empty."""
    repeats = (found.repeat_of, event_path(found.repeat_of)) if found.repeat_of else ("", "")
    facts = [
        ("source", found.source, ""),
        ("came by", found.via, ""),
        ("it was", found.disposition, ""),
        ("repeat of", *repeats),
        ("routed", "no route matches" if found.unrouted else "", ""),
        ("problem", found.problem, ""),
        ("status at Skyvern", found.status, ""),
        ("attempt", str(found.attempt) if found.attempt > 1 else "", ""),
        ("size", f"{found.size:,} bytes", ""),
    ]
    return [each for each in facts if each[1]]


PAGES: Final = (ConsolePage("/events/{event_id}", "event.html", event),)
