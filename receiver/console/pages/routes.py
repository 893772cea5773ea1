"""Routes: the rules in their order, with the deliveries that each has made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from receiver.api.routes import LIST_ROUTES
from receiver.console.charts import NAME, window_links, window_of
from receiver.console.page import ConsolePage, PageLink, PageRequest, PageValues
from receiver.domain.callback import ROUTE
from receiver.routing.mapping import show


def routes(request: PageRequest) -> PageValues:
    """Return the rules with their counts."""
    window = window_of(request.query)
    query = [*((name, value) for name, value in request.query if name != NAME), ("since", window.name)]
    page = replace(request, query=query).call_as_asked(LIST_ROUTES)
    return {
        "title": "Routes",
        "here": "Routes",
        "rows": [(each, _when(each.when)) for each in page.items],
        "unrouted": page.unrouted,
        "counted_since": page.since,
        "caller": ROUTE,
        "windows": window_links("/routes", request.query, window),
    }


def _when(when: str | Mapping[str, Any] | None) -> list[str]:
    """Return a rule as lines to read."""
    if isinstance(when, Mapping):
        return [f"{name}: {_shown(value)}" for name, value in when.items()]
    return [when] if when else []


def _shown(value: object) -> str:
    return " or ".join(map(show, value)) if isinstance(value, list) else show(value)


PAGES: Final = (ConsolePage("/routes", "routes.html", routes, PageLink("Routes", "t", "Delivery")),)
