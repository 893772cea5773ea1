"""Routes: the rules in their order with what each has done, and rules and bodies that are tried without being saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from receiver.api.events import GET_EVENT, GET_EVENT_BODY, LARGEST_VALUE, LIST_EVENTS
from receiver.api.routes import LIST_ROUTES
from receiver.api.runs import GET_RUN
from receiver.api.trial import GET_RULES, LONGEST_BODY, LONGEST_RULES, TRY_RULES, Trial
from receiver.console.action import ConsoleAction
from receiver.console.charts import NAME, window_links, window_of
from receiver.console.page import ConsolePage, PageLink, PageRequest, PageValues
from receiver.domain.callback import ROUTE
from receiver.errors import TooLarge
from receiver.routing.mapping import show

# Events whose body can be taken, and how many can be compared.
_NEWEST: Final = 20
_COMPARED: Final = (0, 20, 100, 500)


def routes(request: PageRequest) -> PageValues:
    """Return the rules with their counts, and the form to try some: with the body of an event, if one is named."""
    window, given = window_of(request.query), dict(request.query)
    event_id = given.pop("event", "")
    query = {**{name: value for name, value in given.items() if name != NAME}, "since": window.name}
    page = replace(request, query=[*query.items()]).call_as_asked(LIST_ROUTES)
    filled = _of_event(request, event_id) if event_id else {}
    return {
        "title": "Routes",
        "here": "Routes",
        "rows": [(each, _when(each.when)) for each in page.items],
        "unrouted": page.unrouted,
        "counted_since": page.since,
        "caller": ROUTE,
        "windows": window_links("/routes", request.query, window),
        **_form(request, filled),
    }


def _when(when: str | Mapping[str, Any] | None) -> list[str]:
    """Return a rule as lines to read."""
    if isinstance(when, Mapping):
        return [f"{name}: {_shown(value)}" for name, value in when.items()]
    return [when] if when else []


def _shown(value: object) -> str:
    return " or ".join(map(show, value)) if isinstance(value, list) else show(value)


def _of_event(request: PageRequest, event_id: str) -> dict[str, Any]:
    """Return the form's fields for an event: its body, its source and the labels of its run."""
    event = request.call(GET_EVENT, event_id=event_id).event
    if event.size > min(LONGEST_BODY, LARGEST_VALUE):
        raise TooLarge(f"The body of {event.id} has {event.size:,} bytes, and {LONGEST_BODY:,} are the most to try.")
    body = request.call(GET_EVENT_BODY, event_id=event.id)
    labels = request.call(GET_RUN, run_id=event.run_id, source=event.source).run.labels if event.run_id else {}
    return {
        "event": event.id,
        "raw": body.body if body.encoding == "utf-8" else "",
        "source": event.source,
        "label": [f"{name}={value}" for name, value in labels.items()],
    }


def _form(request: PageRequest, filled: PageValues) -> PageValues:
    """Return what the form to try rules needs. `filled`: what its fields hold."""
    rules = request.call(GET_RULES).rules
    newest = request.call(LIST_EVENTS, limit=_NEWEST).items
    usual = {"event": "", "raw": "", "rules": rules, "source": "", "label": [], "events": _COMPARED[0]}
    return {
        "filled": {**usual, **filled},
        "edited": filled.get("rules", rules).strip() not in ("", rules.strip()),
        "newest": newest,
        "sources": [request.actor.source] if request.actor.source else list(request.service.config.sources),
        "comparable": _COMPARED,
        "too_long": len(rules) > LONGEST_RULES,
        "longest_body": LONGEST_BODY,
    }


def _tried(request: PageRequest, _result: Trial) -> PageValues:
    """Return what the page of a trial shows besides its result: the form as it was sent."""
    sent: dict[str, Any] = dict(request.query)
    sent["label"] = [value for name, value in request.query if name == "label" and value]
    sent["events"] = int(float(sent.get("events") or 0))  # 20.0 is taken too
    return {"here": "Routes", "title": "What the rules would do", **_form(request, sent)}


PAGES: Final = (ConsolePage("/routes", "routes.html", routes, PageLink("Routes", "t", "Delivery")),)
ACTIONS: Final = (ConsoleAction(TRY_RULES, "Try", template="routes_tried.html", values=_tried),)
