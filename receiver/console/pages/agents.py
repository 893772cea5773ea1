"""Watched accounts and their agents: which results arrive automatically."""

from __future__ import annotations

from typing import Final

from receiver.api.account import (
    CONNECT_AGENT,
    DISCONNECT_AGENT,
    LIST_AGENTS,
    LIST_CONNECTED_AGENTS,
    LIST_WATCHES,
    ConnectResult,
)
from receiver.api.models import MAX_LIMIT
from receiver.console.action import ConsoleAction
from receiver.console.page import ConsolePage, PageLink, PageRequest, PageValues, next_page_of


def agents(request: PageRequest) -> PageValues:
    """Return how each source is watched, a page of its agents, and the agents that were connected."""
    page = request.call_as_asked(LIST_AGENTS)
    of_source = {name: value for name, value in request.query if name == "source"}
    return {
        "title": "Agents",
        "here": "Agents",
        "watches": request.call(LIST_WATCHES, **of_source).items,
        "agents": page.items,
        "connected": request.call(LIST_CONNECTED_AGENTS, **of_source, limit=MAX_LIMIT),
        "public_url": request.service.settings.public_url,
        "next_page": next_page_of("/agents", request.query, page),
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
PAGES: Final = (ConsolePage("/agents", "agents.html", agents, PageLink("Agents", "c", "Submitting")),)
