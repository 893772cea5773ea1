"""The sources' accounts at Skyvern: walks of their runs, agents, and connecting an agent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AfterValidator, Field

from handlers.support.url import without_query
from receiver.api.audit import audited
from receiver.api.call_pool import place_in
from receiver.api.endpoint import call
from receiver.api.listing import paged
from receiver.api.models import Moment, Page, PageParameters, Result, Scoped
from receiver.api.service import Actor, Service
from receiver.domain.agent_url import Where, hooks_of, shown, where
from receiver.domain.api_key import OPERATE, VIEW
from receiver.errors import Conflict, Invalid
from receiver.ledger import account, watches

if TYPE_CHECKING:
    from receiver.reconcile.source import PolledSource

# What the audit calls these actions.
CONNECT: Final = "agent.connect"
DISCONNECT: Final = "agent.disconnect"
# Agents that one process changes at once: each takes four calls of Skyvern's API.
_CHANGES: Final = threading.BoundedSemaphore(2)


class WatchRow(Result):
    """One source: whether its account's runs are watched, and the last walk."""

    source: str
    api_key: bool = Field(description="Whether the config has a key for its API, which all requests need.")
    watched: bool = Field(description="Whether Runhook walks its list of runs: sources.<name>.watch.")
    walked_at: Moment | None = Field(description="When a walk was last complete.")
    due_at: Moment | None = Field(description="When the next walk is due.")
    gap_at: Moment | None = Field(description="When Skyvern's list last ended before the previous walk's newest run.")
    trouble: str = Field(description="Why the last walk was not complete.")


class WatchesResult(Result):
    """The sources, in the order of the config."""

    items: list[WatchRow]


class AgentRow(Result):
    """An agent at Skyvern, as the clock saw it last. Only watched sources have them."""

    source: str
    agent_id: str
    title: str
    results: Where = Field(description="Where the results go of its runs that name no URL: here, elsewhere or nowhere.")
    url: str | None = Field(description="The URL they go to, without query and password; null: nowhere.")
    checked_at: Moment


class ConnectedAgentRow(Result):
    """An agent whose results `runhook connect` sends here. URLs are without their query, which may be secret."""

    source: str
    agent_id: str
    before: Annotated[str, AfterValidator(without_query)] | None = Field(
        description="Where they went before; null: nowhere."
    )
    after: Annotated[str, AfterValidator(without_query)]
    changed_at: Moment


def list_watches(service: Service, _actor: Actor, parameters: Scoped) -> WatchesResult:
    """List sources: whether their accounts are watched, and the last read of each."""
    walks = service.ledger.read(lambda it: {each.source: each for each in watches.list_watches(it)})
    never = watches.Watch("", None, 0.0, None, None, "")
    rows = []
    for name, source in service.config.sources.items():
        walk = walks.get(name, never)
        known = asdict(walk) | {"source": name, "due_at": walk.due_at or None}
        has_key = source.api(service.settings.skyvern_base_url) is not None
        if parameters.source in ("", name):
            rows.append(WatchRow(**known, api_key=has_key, watched=source.watch))
    return WatchesResult(items=rows)


def list_agents(service: Service, _actor: Actor, parameters: PageParameters) -> Page[AgentRow]:
    """List the agents of watched sources, with where the results of their runs go."""
    found, following = paged(service, "agents", parameters, account.page_of_agents, source=str, agent_id=str)

    def row(it: Any) -> AgentRow:
        to = where(it.callback_url, hooks_of(service.settings.public_url, it.source))
        return AgentRow(**it._mapping, url=it.callback_url, results=to)

    return Page(items=[row(each) for each in found], next=following)


def list_connected_agents(service: Service, _actor: Actor, parameters: PageParameters) -> Page[ConnectedAgentRow]:
    """List agents that `runhook connect` changed, with their previous URLs."""
    found, following = paged(service, "connected", parameters, account.page_of_changes, source=str, agent_id=str)
    return Page(items=[ConnectedAgentRow(**each._mapping) for each in found], next=following)


class AgentParameters(Scoped):
    """Which agent. `source`: optional if the config has one source."""

    agent_id: str = Field(max_length=200, pattern=r"^[A-Za-z0-9_-]+$", description="Its permanent id: wpid_…")


class ConnectResult(Result):
    """Where the results of an agent go now. `url`: without query and password; null: nowhere."""

    source: str
    agent_id: str
    url: str | None


def connect_agent(service: Service, actor: Actor, parameters: AgentParameters) -> ConnectResult:
    """Send an agent's results here, by a new version of it at Skyvern. Runhook remembers where they went before."""
    from receiver.reconcile import connect as connecting

    name = _source_of(service, parameters)
    if not hooks_of(service.settings.public_url, name):
        raise Conflict("PUBLIC_URL is not set: set it to where Skyvern reaches this receiver")
    with _change(service, actor, CONNECT, parameters.agent_id, name) as source:
        agent = connecting.agent_of(source, parameters.agent_id)
        if where(agent.callback_url, source.hooks) != "here":
            connecting.connect(service.ledger, source, agent)
    return _recorded(service, name, parameters.agent_id, source.hooks)


def disconnect_agent(service: Service, actor: Actor, parameters: AgentParameters) -> ConnectResult:
    """Restore an agent's previous URL, unless someone changed it at Skyvern since then."""
    from receiver.reconcile import connect as connecting

    name = _source_of(service, parameters)
    change = service.ledger.read(lambda it: account.changes(it, name)).get(parameters.agent_id)
    if change is None:
        raise Conflict(f"agent {parameters.agent_id} was not connected from here, so there is nothing to put back")
    with _change(service, actor, DISCONNECT, parameters.agent_id, name) as source:
        connecting.undo(service.ledger, source, connecting.agent_of(source, parameters.agent_id), change)
    return _recorded(service, name, parameters.agent_id, change.before)


def _source_of(service: Service, parameters: AgentParameters) -> str:
    """Return the name of the agent's source. Raises Invalid."""
    sources = service.config.sources
    name = parameters.source or (next(iter(sources)) if len(sources) == 1 else "")
    if name not in sources:
        raise Invalid(f"source: {name or 'missing'}: must be one of {', '.join(sources)}")
    if sources[name].api(service.settings.skyvern_base_url) is None:
        raise Invalid(f"source {name}: it has no api_key, so nothing of its account can be changed")
    return name


@contextmanager
def _change(service: Service, actor: Actor, action: str, agent_id: str, name: str) -> Iterator[PolledSource]:
    """Lend the API of a source for a change, with its line in the audit. Raises Busy, and Conflict for what fails."""
    from receiver.reconcile.connect import NotChanged
    from receiver.reconcile.poller import build

    with (
        place_in(_CHANGES, "other agents are being changed"),
        audited(service.ledger, actor, action, {"agent": agent_id}, source=name) as done,
        closing(build(service.settings, service.config)) as reconciler,
    ):
        try:
            yield next(each for each in reconciler.sources if each.name == name)
        except NotChanged as error:
            raise Conflict(f"agent {agent_id}: {error}") from None
        done.count = 1


def _recorded(service: Service, source: str, agent_id: str, url: str | None) -> ConnectResult:
    now = shown(url) or None
    service.ledger.write(lambda it: account.set_agent_url(it, source, agent_id, now))
    return ConnectResult(source=source, agent_id=agent_id, url=now)


LIST_WATCHES: Final = call("GET", "/watches", VIEW, list_watches)
LIST_AGENTS: Final = call("GET", "/agents", VIEW, list_agents)
LIST_CONNECTED_AGENTS: Final = call("GET", "/agents/connected", VIEW, list_connected_agents)
CONNECT_AGENT: Final = call("POST", "/agents/{agent_id}/connect", OPERATE, connect_agent)
DISCONNECT_AGENT: Final = call("POST", "/agents/{agent_id}/disconnect", OPERATE, disconnect_agent)
