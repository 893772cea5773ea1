"""Actions on agents at Skyvern: their results come here, or go again where they went before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from pydantic import Field

from receiver.api.actions import audited
from receiver.api.call_pool import place_in
from receiver.api.endpoint import Endpoint
from receiver.api.models import Result, Scoped
from receiver.api.service import Actor, Service
from receiver.domain.agent_url import hooks_of, shown, where
from receiver.domain.api_key import OPERATE
from receiver.errors import Conflict, Invalid
from receiver.ledger import account

if TYPE_CHECKING:
    from receiver.reconcile.source import PolledSource

# What the audit calls it.
CONNECT: Final = "agent.connect"
DISCONNECT: Final = "agent.disconnect"
# Agents that one process changes at once: each takes four calls of Skyvern's API.
_CHANGES: Final = threading.BoundedSemaphore(2)


class AgentParameters(Scoped):
    """Which agent. `source`: may be left out where there is one only."""

    agent_id: str = Field(max_length=200, pattern=r"^[A-Za-z0-9_-]+$", description="Its permanent id: wpid_…")


class ConnectResult(Result):
    """Where the results of an agent go now. `url`: without query and password; null: nowhere."""

    source: str
    agent_id: str
    url: str | None


def connect_agent(service: Service, actor: Actor, wanted: AgentParameters) -> ConnectResult:
    """Have an agent's results sent here, by a new version of it at Skyvern; where they went before is remembered."""
    from receiver.reconcile import connect as connecting

    name = _source_of(service, wanted)
    if not hooks_of(service.settings.public_url, name):
        raise Conflict("PUBLIC_URL is not set: set it to where Skyvern reaches this receiver")
    with _change(service, actor, CONNECT, wanted.agent_id, name) as source:
        agent = connecting.agent_of(source, wanted.agent_id)
        if where(agent.callback_url, source.hooks) != "here":
            connecting.connect(service.ledger, source, agent)
    return _recorded(service, name, wanted.agent_id, source.hooks)


def disconnect_agent(service: Service, actor: Actor, wanted: AgentParameters) -> ConnectResult:
    """Put back where an agent's results went before it was connected, unless somebody has changed that since."""
    from receiver.reconcile import connect as connecting

    name = _source_of(service, wanted)
    change = service.ledger.read(lambda it: account.changes(it, name)).get(wanted.agent_id)
    if change is None:
        raise Conflict(f"agent {wanted.agent_id} was not connected from here, so there is nothing to put back")
    with _change(service, actor, DISCONNECT, wanted.agent_id, name) as source:
        connecting.undo(service.ledger, source, connecting.agent_of(source, wanted.agent_id), change)
    return _recorded(service, name, wanted.agent_id, change.before)


def _source_of(service: Service, wanted: AgentParameters) -> str:
    """Return the name of the source whose agent is meant. Raises Invalid."""
    sources = service.config.sources
    name = wanted.source or (next(iter(sources)) if len(sources) == 1 else "")
    if name not in sources:
        raise Invalid(f"source {name}: there is none" if name else f"source: one of {', '.join(sources)} is wanted")
    if sources[name].api(service.settings.skyvern_base_url) is None:
        raise Invalid(f"source {name}: it has no api_key, so nothing of its account can be changed")
    return name


@contextmanager
def _change(service: Service, actor: Actor, action: str, agent_id: str, name: str) -> Iterator[PolledSource]:
    """Lend the API of a source for a change that is told to the audit. Raises Busy, and Conflict for what fails."""
    from receiver.reconcile.connect import NotChanged
    from receiver.reconcile.poller import build

    with (
        place_in(_CHANGES, "other agents are being changed"),
        audited.audited(service.ledger, actor, action, {"agent": agent_id}, source=name) as told,
        closing(build(service.settings, service.config)) as reconciler,
    ):
        try:
            yield next(each for each in reconciler.sources if each.name == name)
        except NotChanged as error:
            raise Conflict(f"agent {agent_id}: {error}") from None
        told.count = 1


def _recorded(service: Service, source: str, agent_id: str, url: str | None) -> ConnectResult:
    now = shown(url) or None
    service.ledger.write(lambda it: account.set_agent_url(it, source, agent_id, now))
    return ConnectResult(source=source, agent_id=agent_id, url=now)


CONNECT_AGENT = Endpoint(
    "connect_agent", "POST", "/agents/{agent_id}/connect", OPERATE, AgentParameters, ConnectResult, connect_agent
)
DISCONNECT_AGENT = Endpoint(
    "disconnect_agent",
    "POST",
    "/agents/{agent_id}/disconnect",
    OPERATE,
    AgentParameters,
    ConnectResult,
    disconnect_agent,
)
ENDPOINTS = (CONNECT_AGENT, DISCONNECT_AGENT)
