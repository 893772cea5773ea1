"""Where a body would go, and why: today's rules on a webhook that nobody has sent."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from receiver.api.endpoint import Endpoint
from receiver.api.models import Result, Scoped
from receiver.api.service import Actor, Service
from receiver.config.models import Config
from receiver.domain import deduplication
from receiver.domain.api_key import VIEW
from receiver.domain.event import Event, event_id
from receiver.domain.parsed_event import parse_event
from receiver.domain.redaction import Redactor
from receiver.errors import Invalid
from receiver.routing.router import Router, RunView, Verdict


class ExplainParameters(Scoped):
    """A body: as a JSON object, or as text."""

    body: dict[str, Any] | None = Field(None, description="The body, as a JSON object.")
    raw: str = Field("", description="The body as text, to see what becomes of one that is no JSON.")
    labels: dict[str, str] = Field(default_factory=dict, max_length=1000, description="Labels of its submission.")


class RouteExplanation(Result):
    """What one route makes of it."""

    route: str
    matched: bool
    why: str
    error: bool = Field(description="The rule could not be evaluated on it, which counts as no match.")


class ExplainedDelivery(Result):
    """A delivery that would be made."""

    sink: str
    route: str
    after: list[str] = Field(description="Sinks whose receipts it waits for.")


class Explanation(Result):
    """What would become of a body, as the first event of its run."""

    run_id: str
    run_type: str
    status: str = Field(description="As Skyvern says.")
    outcome: str = Field(description="After correction.")
    attempt: int
    problem: str = Field(description="Why it can't be read; it would be kept, and not routed.")
    event_id: str
    disposition: str
    redacted: bool = Field(description="Whether fields are masked.")
    routes: list[RouteExplanation]
    deliveries: list[ExplainedDelivery] = Field(description="None: it would be unrouted, kept, and go nowhere.")


def explain_body(service: Service, _actor: Actor, wanted: ExplainParameters) -> Explanation:
    """Tell which routes match a body, why, and which deliveries would be made, as the first event of its run."""
    config = service.config
    if wanted.source and wanted.source not in config.sources:
        raise Invalid(f"source {wanted.source}: there is none; there are {', '.join(config.sources)}")
    if (wanted.body is None) == (not wanted.raw):
        raise Invalid("give either body, a JSON object, or raw, its text")
    body = wanted.raw.encode(errors="replace") if wanted.body is None else json.dumps(wanted.body).encode()
    return explain(config, wanted.source or next(iter(config.sources)), body, wanted.labels, time.time())


def explain(config: Config, source: str, body: bytes, labels: Mapping[str, str], now: float) -> Explanation:
    """Tell what would become of a body that came at `now`."""
    parsed = parse_event(Event(event_id(source, body), source, body, now), Redactor(config.redact))
    run, event = parsed.run, parsed.event.id
    disposition: str = "unreadable"
    if parsed.facts is not None:
        disposition = (deduplication.TEST if run.test else deduplication.classify(parsed.facts, [])).disposition
    verdict = Verdict([], [])
    if not run.problem:
        view = RunView(run, source, "webhook", disposition, labels, now, event)
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
        routes=[
            RouteExplanation(route=each.route, matched=each.matched, why=each.why, error=each.error)
            for each in verdict.explanations
        ],
        deliveries=[
            ExplainedDelivery(sink=each.sink, route=each.route, after=list(each.after)) for each in verdict.targets
        ],
    )


EXPLAIN = Endpoint("explain", "POST", "/explain", VIEW, ExplainParameters, Explanation, explain_body)
ENDPOINTS = (EXPLAIN,)
