"""What is remembered of an account at Skyvern: agents, and those whose callback URL Runhook changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa

from receiver.ledger.database import many_rows
from receiver.ledger.database.dialect import storable
from receiver.ledger.schema import agent_changes, agents


@dataclass(frozen=True, slots=True)
class AgentChange:
    """An agent whose results `runhook connect` sends here. `before`: its earlier callback URL; None for no URL."""

    source: str
    agent_id: str
    before: str | None = field(repr=False)
    after: str = field(repr=False)
    changed_at: float


def changes(connection: sa.Connection, source: str) -> dict[str, AgentChange]:
    """Return the changes of a source's agents that are not undone, by agent."""
    query = sa.select(agent_changes).where(agent_changes.c.source == source)
    return {row.agent_id: AgentChange(*row) for row in connection.execute(query)}


def record_change(connection: sa.Connection, change: AgentChange) -> None:
    """Record a change before it is made. What was there before the first one stays what is undone to."""
    many_rows.put(connection, agent_changes, asdict(change), changes=("after", "changed_at"))


def forget_change(connection: sa.Connection, source: str, agent_id: str) -> None:
    """Forget a change: it was undone, or not made."""
    it = agent_changes.c
    connection.execute(sa.delete(agent_changes).where(it.source == source, it.agent_id == agent_id))


def _page(
    table: sa.Table, connection: sa.Connection, limit: int, *, source: str = "", after: tuple[str, str] | None = None
) -> Sequence[Any]:
    """Return rows by source and id. `source`: only its own; `after`: only those behind this source and id."""
    key = list(table.primary_key)
    query = sa.select(table).order_by(*key).limit(limit)
    query = query.where(table.c.source == source) if source else query
    return connection.execute(query.where(sa.tuple_(*key) > after) if after else query).all()


page_of_changes = partial(_page, agent_changes)
page_of_agents = partial(_page, agents)


def replace_agents(
    connection: sa.Connection, source: str, seen: Mapping[str, tuple[str, str | None]], now: float
) -> None:
    """Record the agents of a source: by id, the title, and the callback URL as it may be shown."""
    rows = [
        {"source": source, "agent_id": each, "title": storable(title), "callback_url": url and storable(url)}
        for each, (title, url) in sorted(seen.items())
    ]
    _replace(connection, agents, source, rows, now)


def set_agent_url(connection: sa.Connection, source: str, agent_id: str, url: str | None) -> None:
    """Record where an agent's results go from now on, if it is known."""
    connection.execute(
        sa.update(agents).where(agents.c.source == source, agents.c.agent_id == agent_id).values(callback_url=url)
    )


def _replace(
    connection: sa.Connection, table: sa.Table, source: str, rows: Iterable[Mapping[str, Any]], now: float
) -> None:
    connection.execute(sa.delete(table).where(table.c.source == source))
    if rows := [{**each, "checked_at": now} for each in rows]:
        connection.execute(sa.insert(table), rows)
