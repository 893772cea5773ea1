"""Schedules and connected agents: which results of Skyvern's accounts come here by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.account import LIST_CONNECTED_AGENTS, LIST_SCHEDULES, LIST_WATCHES
from receiver.api.models import MAX_LIMIT
from receiver.api.service import Actor, Service
from receiver.console.page import ConsolePage, PageLink, Query, further, given_of


def schedules(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return how each source is watched, a page of the schedules, and the agents that were connected."""
    given = given_of(query)
    wanted = LIST_SCHEDULES.parse({}, given)
    found = LIST_SCHEDULES.call(service, actor, wanted)
    of_source = {"source": wanted.source}
    agents = LIST_CONNECTED_AGENTS.validated({**of_source, "limit": MAX_LIMIT})
    return {
        "title": "Schedules",
        "here": "Schedules",
        "watches": LIST_WATCHES.call(service, actor, LIST_WATCHES.validated(of_source)).items,
        "schedules": found.items,
        "agents": LIST_CONNECTED_AGENTS.call(service, actor, agents),
        "public_url": service.settings.public_url,
        "further": further("/schedules", given, found),
    }


PAGES: Final = (ConsolePage("/schedules", "schedules.html", schedules, PageLink("Schedules", "c", "Submitting")),)
