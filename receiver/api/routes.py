"""Routes: the rules, and how many deliveries each has made lately."""

from __future__ import annotations

import time
from typing import Any, Final

from pydantic import Field

from receiver.api.endpoint import Endpoint
from receiver.api.models import Moment, MomentParameter, Result, Scoped
from receiver.api.service import Actor, Service
from receiver.config.destinations import RouteConfig
from receiver.domain.api_key import VIEW
from receiver.ledger import stats

# Seconds that are counted if nothing else is said: a day.
USUAL: Final = 86_400.0
# What a route may see besides final, new events.
_FLAGS: Final = ("interim", "updates", "repeats", "superseded", "test")


class RouteTargetRow(Result):
    """A sink that a route leads to."""

    sink: str
    after: list[str] = Field(description="Sinks whose receipts it waits for.")


class RouteRow(Result):
    """A route, in the order of the config. One that is not in the config any more has no `when` and leads nowhere."""

    name: str
    configured: bool
    when: str | dict[str, Any] | None = Field(description="The rule; null: always.")
    to: list[RouteTargetRow]
    also: list[str] = Field(description=f"What it sees besides final, new events: {', '.join(_FLAGS)}.")
    stop: bool = Field(description="Whether the routes after it are left out when it matches.")
    deliveries: dict[str, int] = Field(description="How many it has made, by state.")


class RoutesResult(Result):
    """The routes. `since`: events recorded since then are counted, later than asked for where there are very many."""

    items: list[RouteRow]
    since: Moment
    unrouted: int = Field(description="Events that no route has matched.")


class RoutesParameters(Scoped):
    """What is counted."""

    since: MomentParameter | None = Field(None, description="Events recorded since then: 15m, 2h, or a time. 1d.")


def list_routes(service: Service, _actor: Actor, wanted: RoutesParameters) -> RoutesResult:
    """List the routes in their order, with the deliveries that each has made lately, by state."""
    since = time.time() - USUAL if wanted.since is None else wanted.since
    counted = service.ledger.read(lambda it: stats.count_routes(it, since, wanted.source))
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
        to=[RouteTargetRow(sink=target.sink, after=target.after) for target in route.targets],
        also=[flag for flag in _FLAGS if getattr(route, flag)],
        stop=route.stop,
        deliveries=counts,
    )


LIST_ROUTES: Final = Endpoint("list_routes", "GET", "/routes", VIEW, RoutesParameters, RoutesResult, list_routes)
ENDPOINTS = (LIST_ROUTES,)
