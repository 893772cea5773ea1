"""Results that are overdue: when Skyvern is polled next, and how often it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.service import Actor, Service
from receiver.api.submissions import LIST_MISSING
from receiver.console.filters import filter_form
from receiver.console.page import ConsolePage, PageLink, Query, further, given_of

_COMMON: Final = ("run_prefix", "workflow", "title", "since")
_MORE: Final = ("source", "label", "run_type", "reason", "text", "until", "run")


def missing(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return a page of overdue results, the one that is polled next first."""
    given = given_of(query)
    found = LIST_MISSING.call(service, actor, LIST_MISSING.parse({}, given))
    return {
        "title": "Missing",
        "here": "Missing",
        "missing": found.items,
        "form": filter_form(service, actor, "/missing", given, _COMMON, _MORE),
        "further": further("/missing", given, found),
    }


PAGES: Final = (ConsolePage("/missing", "missing.html", missing, PageLink("Missing", "m", "")),)
