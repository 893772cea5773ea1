"""What is known of the sources' accounts at Skyvern: walks of their runs, schedules, agents, and those connected."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Final, TypeVar

from pydantic import Field

from handlers.support.url import without_query
from receiver.api import cursor
from receiver.api.endpoint import Endpoint
from receiver.api.models import Moment, Page, PageParameters, Result, Scoped
from receiver.api.service import Actor, Service
from receiver.domain.agent_url import Where, hooks_of, where
from receiver.domain.api_key import VIEW
from receiver.ledger import account, watches

T = TypeVar("T")


class WatchRow(Result):
    """One source: whether its account's runs are watched, and how far that came."""

    source: str
    api_key: bool = Field(description="Whether the config has a key for its API; nothing is asked without one.")
    watched: bool = Field(description="Whether its list of runs is walked: sources.<name>.watch.")
    walked_at: Moment | None = Field(description="When a walk was last complete.")
    due_at: Moment | None = Field(description="When the next walk is due.")
    gap_at: Moment | None = Field(description="When Skyvern's list last ended before what was known was reached.")
    trouble: str = Field(description="Why the last walk was not complete.")
    missed: int = Field(description="Schedules that did not start their last run.")


class WatchesResult(Result):
    """The sources, in the order of the config."""

    items: list[WatchRow]


class ScheduleRow(Result):
    """A schedule at Skyvern, as the clock saw it last; those of watched sources are looked at."""

    source: str
    schedule_id: str
    agent_id: str
    next_run: Moment | None = Field(description="When it is to start a run next.")
    missed: Moment | None = Field(description="The last time at which it was to start a run and did not.")
    checked_at: Moment


class AgentRow(Result):
    """An agent at Skyvern, as the clock saw it last; those of watched sources are looked at."""

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
    before: str | None = Field(description="Where they went before; null: nowhere.")
    after: str
    changed_at: Moment


def list_watches(service: Service, _actor: Actor, wanted: Scoped) -> WatchesResult:
    """Tell of each source whether the runs of its account are watched, and how far that came."""
    walks = service.ledger.read(lambda it: {each.source: each for each in watches.every(it)})
    missed = service.ledger.read(account.count_missed)
    rows = []
    for name, source in service.config.sources.items():
        if wanted.source in ("", name):
            walk = walks.get(name)
            rows.append(
                WatchRow(
                    source=name,
                    api_key=source.api(service.settings.skyvern_base_url) is not None,
                    watched=source.watch,
                    walked_at=walk and walk.walked_at,
                    due_at=(walk and walk.due_at) or None,
                    gap_at=walk and walk.gap_at,
                    trouble=walk.trouble if walk else "",
                    missed=missed.get(name, 0),
                )
            )
    return WatchesResult(items=rows)


def list_schedules(service: Service, _actor: Actor, wanted: PageParameters) -> Page[ScheduleRow]:
    """List the schedules of watched sources, with those that did not start their last run."""
    found, rest = _page(service, "schedules", wanted, account.page_of_schedules, attrgetter("source", "schedule_id"))
    return Page(items=[ScheduleRow.model_validate(each, from_attributes=True) for each in found], next=rest)


def list_agents(service: Service, _actor: Actor, wanted: PageParameters) -> Page[AgentRow]:
    """List the agents of watched sources, with where the results of their runs go."""
    found, rest = _page(service, "agents", wanted, account.page_of_agents, _BY_AGENT)
    rows = [
        AgentRow(
            source=each.source,
            agent_id=each.agent_id,
            title=each.title,
            results=where(each.callback_url, hooks_of(service.settings.public_url, each.source)),
            url=each.callback_url,
            checked_at=each.checked_at,
        )
        for each in found
    ]
    return Page(items=rows, next=rest)


def list_connected_agents(service: Service, _actor: Actor, wanted: PageParameters) -> Page[ConnectedAgentRow]:
    """List the agents whose results `runhook connect` sends here, and where they went before."""
    found, rest = _page(service, "connected", wanted, account.page_of_changes, _BY_AGENT)
    rows = [
        ConnectedAgentRow(
            source=each.source,
            agent_id=each.agent_id,
            before=without_query(each.before) if each.before else None,
            after=without_query(each.after),
            changed_at=each.changed_at,
        )
        for each in found
    ]
    return Page(items=rows, next=rest)


_BY_AGENT: Final = attrgetter("source", "agent_id")


def _page(
    service: Service,
    name: str,
    wanted: PageParameters,
    read: Callable[..., list[T]],
    position: Callable[[T], tuple[str, str]],
) -> tuple[list[T], str | None]:
    """Return the page of `read` that is wanted, and its `next`. `name`: of the list, in cursors."""
    after = cursor.decode(name, wanted.after, (str, str))
    found = service.ledger.read(lambda it: read(it, wanted.limit, source=wanted.source, after=after))
    return found, cursor.encode(name, position(found[-1]) if len(found) == wanted.limit else None)


LIST_WATCHES = Endpoint("list_watches", "GET", "/watches", VIEW, Scoped, WatchesResult, list_watches)
LIST_SCHEDULES = Endpoint(
    "list_schedules", "GET", "/schedules", VIEW, PageParameters, Page[ScheduleRow], list_schedules
)
LIST_AGENTS = Endpoint("list_agents", "GET", "/agents", VIEW, PageParameters, Page[AgentRow], list_agents)
LIST_CONNECTED_AGENTS = Endpoint(
    "list_connected_agents",
    "GET",
    "/agents/connected",
    VIEW,
    PageParameters,
    Page[ConnectedAgentRow],
    list_connected_agents,
)
ENDPOINTS = (LIST_WATCHES, LIST_SCHEDULES, LIST_AGENTS, LIST_CONNECTED_AGENTS)
