"""Schedules and connected agents: which results of Skyvern's accounts arrive automatically."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from receiver.api.account import (
    CONNECT_AGENT,
    DISCONNECT_AGENT,
    LIST_AGENTS,
    LIST_CONNECTED_AGENTS,
    LIST_SCHEDULES,
    LIST_WATCHES,
    ConnectResult,
)
from receiver.api.models import MAX_LIMIT
from receiver.api.service import Actor, Service
from receiver.console.action import ConsoleAction
from receiver.console.page import ConsolePage, PageLink, Query, further, given_of


def schedules(service: Service, actor: Actor, _names: Mapping[str, str], query: Query) -> Mapping[str, Any]:
    """Return how each source is watched, a page of the schedules, and the agents that were connected."""
    given = given_of(query)
    parameters = LIST_SCHEDULES.parse({}, given)
    page = LIST_SCHEDULES.call(service, actor, parameters)
    of_source = {"source": parameters.source}
    agents = LIST_AGENTS.call(service, actor, LIST_AGENTS.validated({**of_source, "limit": MAX_LIMIT}))
    connected = LIST_CONNECTED_AGENTS.validated({**of_source, "limit": MAX_LIMIT})
    return {
        "title": "Schedules",
        "here": "Schedules",
        "watches": LIST_WATCHES.call(service, actor, LIST_WATCHES.validated(of_source)).items,
        "schedules": page.items,
        "results_of": {(each.source, each.agent_id): each.results for each in agents.items},
        "agents": agents,
        "connected": LIST_CONNECTED_AGENTS.call(service, actor, connected),
        "public_url": service.settings.public_url,
        "further": further("/schedules", given, page),
    }


def _connected(result: ConnectResult) -> str:
    return f"The results of {result.agent_id} come here: to {result.url}"


def _disconnected(result: ConnectResult) -> str:
    return f"The results of {result.agent_id} go {f'to {result.url}' if result.url else 'nowhere'} again."


ACTIONS: Final = (
    ConsoleAction(
        CONNECT_AGENT,
        "Send results here",
        _connected,
        "Have the results of this agent sent here, and no longer to where they go now? Skyvern makes a new version of"
        " the agent, in which nothing else is changed; it can be put back.",
    ),
    ConsoleAction(
        DISCONNECT_AGENT,
        "Put back",
        _disconnected,
        "Send the results of this agent where they went before, and no longer here? Skyvern makes a new version of it.",
    ),
)
PAGES: Final = (ConsolePage("/schedules", "schedules.html", schedules, PageLink("Schedules", "c", "Submitting")),)
