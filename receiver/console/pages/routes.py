"""Routes: the rules in their order with what each has done, and rules and bodies that are tried without being saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from receiver.api.events import GET_EVENT, GET_EVENT_BODY, LARGEST_VALUE, LIST_EVENTS
from receiver.api.routes import LIST_ROUTES
from receiver.api.runs import GET_RUN
from receiver.api.service import Actor, Service
from receiver.api.trial import GET_RULES, LONGEST_BODY, LONGEST_RULES, TRY_RULES, Trial
from receiver.console.action import ConsoleAction, Form
from receiver.console.charts import NAME, window_links, window_of
from receiver.console.page import ConsolePage, PageLink, Query, given_of
from receiver.domain.callback import ROUTE
from receiver.errors import TooLarge
from receiver.routing.mapping import show

# Events whose body can be taken, and how many can be compared.
_NEWEST: Final = 20
_COMPARED: Final = (0, 20, 100, 500)


def routes(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return the rules with their counts, and the form to try some: with the body of an event, if one is named."""
    given = dict(given_of(query))
    window, event_id = window_of(query), given.pop("event", "")
    asked = {**{name: value for name, value in given.items() if name != NAME}, "since": window.name}
    page = LIST_ROUTES.call(service, actor, LIST_ROUTES.parse({}, asked.items()))
    filled = _of_event(service, actor, event_id) if event_id else {}
    return {
        "title": "Routes",
        "here": "Routes",
        "rows": [(each, _when(each.when)) for each in page.items],
        "unrouted": page.unrouted,
        "counted_since": page.since,
        "caller": ROUTE,
        "windows": window_links("/routes", query, window),
        **_form(service, actor, filled),
    }


def _when(when: str | Mapping[str, Any] | None) -> list[str]:
    """Return a rule as lines to read."""
    if isinstance(when, Mapping):
        return [f"{name}: {_shown(value)}" for name, value in when.items()]
    return [when] if when else []


def _shown(value: object) -> str:
    return " or ".join(map(show, value)) if isinstance(value, list) else show(value)


def _of_event(service: Service, actor: Actor, event_id: str) -> dict[str, Any]:
    """Return the form's fields for an event: its body, its source and the labels of its run."""
    event = GET_EVENT.call(service, actor, GET_EVENT.validated({"event_id": event_id})).event
    if event.size > min(LONGEST_BODY, LARGEST_VALUE):
        raise TooLarge(f"The body of {event.id} has {event.size:,} bytes, and {LONGEST_BODY:,} are the most to try.")
    body = GET_EVENT_BODY.call(service, actor, GET_EVENT_BODY.validated({"event_id": event.id}))
    of_run = GET_RUN.validated({"run_id": event.run_id, "source": event.source})
    labels = GET_RUN.call(service, actor, of_run).run.labels if event.run_id else {}
    return {
        "event": event.id,
        "raw": body.body if body.encoding == "utf-8" else "",
        "source": event.source,
        "label": [f"{name}={value}" for name, value in labels.items()],
    }


def _form(service: Service, actor: Actor, filled: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the form to try rules needs. `filled`: what its fields hold."""
    rules = GET_RULES.call(service, actor, GET_RULES.validated({})).rules
    newest = LIST_EVENTS.call(service, actor, LIST_EVENTS.validated({"limit": _NEWEST})).items
    usual = {"event": "", "raw": "", "rules": rules, "source": "", "label": [], "events": _COMPARED[0]}
    return {
        "filled": {**usual, **filled},
        "edited": filled.get("rules", rules).strip() not in ("", rules.strip()),
        "newest": newest,
        "sources": [actor.source] if actor.source else list(service.config.sources),
        "comparable": _COMPARED,
        "too_long": len(rules) > LONGEST_RULES,
        "longest_body": LONGEST_BODY,
    }


def _tried(service: Service, actor: Actor, form: Form, _result: Trial) -> Mapping[str, Any]:
    """Return what the page of a trial shows besides its result: the form as it was sent."""
    sent: dict[str, Any] = dict(form)
    sent["label"] = _values(form, "label")
    sent["events"] = int(float(sent.get("events") or 0))  # 20.0 is taken too
    return {"here": "Routes", "title": "What the rules would do", **_form(service, actor, sent)}


def _values(form: Form, name: str) -> Sequence[str]:
    return [value for field, value in form if field == name and value]


PAGES: Final = (ConsolePage("/routes", "routes.html", routes, PageLink("Routes", "t", "Delivery")),)
ACTIONS: Final = (ConsoleAction(TRY_RULES, "Try", template="routes_tried.html", values=_tried),)
