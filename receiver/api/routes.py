"""Routes: the rules, the deliveries that each made lately, and which match a given body."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from receiver.api.endpoint import call
from receiver.api.models import Moment, MomentParameter, Result, Scoped
from receiver.api.service import Actor, Service
from receiver.config.models import Config
from receiver.domain import deduplication
from receiver.domain.api_key import VIEW
from receiver.domain.event import Event, Via, event_id
from receiver.domain.parsed_event import parse_event
from receiver.domain.redaction import Redactor
from receiver.errors import Invalid
from receiver.ledger import stats
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router, RunView, Verdict

# Seconds that are counted by default.
USUAL: Final = 86_400.0
# What a route may see besides final, new events.
_FLAGS: Final = ("interim", "updates", "repeats", "superseded", "test")


class RouteTargetRow(Result):
    """A sink that a route leads to."""

    sink: str
    after: list[str] = Field(description="Sinks whose receipts it waits for.")


class RouteRow(Result):
    """A route, in the order of the config. One that left the config has no `when` and no `to`."""

    name: str
    configured: bool
    when: str | dict[str, Any] | None = Field(description="The rule; null: always.")
    to: list[RouteTargetRow]
    also: list[str] = Field(description=f"What it sees besides final, new events: {', '.join(_FLAGS)}.")
    stop: bool = Field(description="Whether later routes are skipped when it matches.")
    deliveries: dict[str, int] = Field(description="How many it has made, by state.")


class RoutesResult(Result):
    """The routes. `since`: events recorded since then are counted; later than requested if there are too many."""

    items: list[RouteRow]
    since: Moment
    unrouted: int = Field(description="Events that no route has matched.")


class RoutesParameters(Scoped):
    """Which events are counted."""

    since: MomentParameter | None = Field(None, description="Events since then: 2h ago, 22:43, or a time. Default: 1d.")


def list_routes(service: Service, _actor: Actor, parameters: RoutesParameters) -> RoutesResult:
    """List the routes in their order, with their recent deliveries by state."""
    since = time.time() - USUAL if parameters.since is None else parameters.since
    counted = service.ledger.read(lambda it: stats.count_routes(it, since, parameters.source))
    rows = [_row(route, counted.by_route.get(route.name, {})) for route in service.config.routes]
    known = {route.name for route in service.config.routes}
    rows += [
        RouteRow(name=name, configured=False, when=None, to=[], also=[], stop=False, deliveries=counts)
        for name, counts in sorted(counted.by_route.items())
        if name not in known
    ]
    return RoutesResult(items=rows, since=counted.since, unrouted=counted.unrouted)


def _row(route: RouteConfig, counts: dict[str, int]) -> RouteRow:
    return RouteRow(
        name=route.name,
        configured=True,
        when=route.when,
        to=[RouteTargetRow.model_validate(target, from_attributes=True) for target in route.targets],
        also=[flag for flag in _FLAGS if getattr(route, flag)],
        stop=route.stop,
        deliveries=counts,
    )


class ExplainParameters(Scoped):
    """A body, as a JSON object or as text."""

    body: dict[str, Any] | None = Field(None, description="The body, as a JSON object.")
    raw: str = Field("", description="The body as text, which may be invalid JSON.")
    labels: dict[str, str] = Field(default_factory=dict, max_length=1000, description="Labels of its submission.")
    via: Via = Field("webhook", description="Origin: webhook, poll or import.")
    disposition: Literal["", deduplication.Disposition] = Field(
        "", description="Kind of event: new, update, repeat …; empty: the first event of its run."
    )


class RouteExplanation(Result):
    """The result of one route."""

    route: str
    matched: bool
    why: str
    error: bool = Field(description="The rule failed on it, which counts as no match.")


class ExplainedDelivery(Result):
    """A delivery that would be made."""

    sink: str
    route: str
    after: list[str] = Field(description="Sinks whose receipts it waits for.")


class Explanation(Result):
    """What would happen to a body, as the first event of its run."""

    run_id: str
    run_type: str
    status: str = Field(description="As Skyvern says.")
    outcome: str = Field(description="After correction.")
    attempt: int
    problem: str = Field(description="Why it cannot be parsed; it would be stored and not routed.")
    event_id: str
    disposition: str
    redacted: bool = Field(description="Whether fields are masked.")
    routes: list[RouteExplanation]
    deliveries: list[ExplainedDelivery] = Field(description="Empty: it would be stored and not delivered.")


def explain_body(service: Service, _actor: Actor, parameters: ExplainParameters) -> Explanation:
    """Explain which routes match a body, why, and which deliveries it gets, as the first event of its run."""
    config = service.config
    source = source_or_first(config, parameters.source)
    if (parameters.body is None) == (not parameters.raw):
        raise Invalid("give either body, a JSON object, or raw, its text")
    body = parameters.raw.encode(errors="replace") if parameters.body is None else json.dumps(parameters.body).encode()
    return explain(config, source, body, parameters.labels, time.time(), parameters.via, parameters.disposition)


def source_or_first(config: Config, name: str) -> str:
    """Return a source of the config, the first one for "". Raises Invalid for an unknown one."""
    if name and name not in config.sources:
        raise Invalid(f"source {name}: not found; there are {', '.join(config.sources)}")
    return name or next(iter(config.sources))


def explain(
    config: Config,
    source: str,
    body: bytes,
    labels: Mapping[str, str],
    now: float,
    via: Via = "webhook",
    disposition: str = "",
) -> Explanation:
    """Return what would happen to a body that arrives at `now`. `disposition`: "" as the first event of its run."""
    parsed = parse_event(Event(event_id(source, body), source, body, now), Redactor(config.redact))
    run, event = parsed.run, parsed.event.id
    if not disposition and parsed.facts is None:
        disposition = "unreadable"
    elif not disposition and parsed.facts is not None:
        disposition = (deduplication.TEST if run.test else deduplication.classify(parsed.facts, [])).disposition
    verdict = Verdict([], [])
    if not run.problem:
        view = RunView(run, source, via, disposition, labels, now, event)
        verdict = Router(config.routes).match(view, explain=True)
    return Explanation(
        run_id=run.run_id,
        run_type=run.run_type,
        status=run.status,
        outcome=run.outcome,
        attempt=run.attempt,
        problem=run.problem,
        event_id=event,
        disposition=disposition,
        redacted=parsed.body is not body,
        routes=[RouteExplanation.model_validate(each, from_attributes=True) for each in verdict.explanations],
        deliveries=[ExplainedDelivery.model_validate(each, from_attributes=True) for each in verdict.targets],
    )


LIST_ROUTES: Final = call("GET", "/routes", VIEW, list_routes)
EXPLAIN: Final = call("POST", "/explain", VIEW, explain_body, name="explain")
