"""What is remembered of an account at Skyvern: the agents whose callback URL we changed, and schedules that missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from receiver.ledger import bulk
from receiver.ledger.schema import agent_changes, schedules


@dataclass(frozen=True, slots=True)
class ScheduleSeen:
    """A schedule as the clock saw it last. `next_run`: the next time at which it is to start a run; `missed`: the last
    such time at which it did not. Times: seconds since the epoch."""

    source: str
    schedule_id: str
    agent_id: str
    next_run: float | None
    missed: float | None
    checked_at: float


@dataclass(frozen=True, slots=True)
class AgentChange:
    """An agent whose callback URL is ours by `runhook connect`. `before`: what it was; None for none."""

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
    row = {name: getattr(change, name) for name in ("source", "agent_id", "before", "after", "changed_at")}
    connection.execute(
        bulk.insert_statement(connection, agent_changes)
        .values(row)
        .on_conflict_do_update(
            index_elements=[agent_changes.c.source, agent_changes.c.agent_id],
            set_={"after": change.after, "changed_at": change.changed_at},
        )
    )


def forget_change(connection: sa.Connection, source: str, agent_id: str) -> None:
    """Forget a change: it was undone, or not made."""
    connection.execute(
        sa.delete(agent_changes).where(agent_changes.c.source == source, agent_changes.c.agent_id == agent_id)
    )


def page_of_changes(
    connection: sa.Connection, limit: int, *, source: str = "", after: tuple[str, str] | None = None
) -> list[AgentChange]:
    """Return changes that are not undone, by source and agent. `after`: only those behind this source and agent."""
    return [AgentChange(*row) for row in _page(connection, agent_changes, "agent_id", limit, source, after)]


def page_of_schedules(
    connection: sa.Connection, limit: int, *, source: str = "", after: tuple[str, str] | None = None
) -> list[ScheduleSeen]:
    """Return schedules, by source and id. `after`: only those behind this source and id."""
    return [ScheduleSeen(*row) for row in _page(connection, schedules, "schedule_id", limit, source, after)]


def _page(
    connection: sa.Connection, table: sa.Table, name: str, limit: int, source: str, after: tuple[str, str] | None
) -> Iterable[Any]:
    """Return rows of a table whose primary key is (source, `name`), in that order."""
    key = sa.tuple_(table.c.source, table.c[name])
    query = sa.select(table).order_by(table.c.source, table.c[name]).limit(limit)
    query = query.where(table.c.source == source) if source else query
    return connection.execute(query.where(key > after) if after else query)


def missed(connection: sa.Connection, source: str) -> dict[str, float]:
    """Return the schedules of a source that missed, with the time at which each did so last."""
    query = sa.select(schedules.c.schedule_id, schedules.c.missed).where(
        schedules.c.source == source, schedules.c.missed.is_not(None)
    )
    return {row.schedule_id: row.missed for row in connection.execute(query)}


def count_missed(connection: sa.Connection) -> dict[str, int]:
    """Count the schedules of each source that missed their last time."""
    query = sa.select(schedules.c.source, sa.func.count(schedules.c.missed)).group_by(schedules.c.source)
    return {row[0]: row[1] for row in connection.execute(query)}


def replace_schedules(
    connection: sa.Connection, source: str, seen: Mapping[str, tuple[str, float | None, float | None]], now: float
) -> None:
    """Record the schedules of a source: by id, the agent, when it fires next, and the last time if it missed that."""
    connection.execute(sa.delete(schedules).where(schedules.c.source == source))
    if seen:
        connection.execute(
            sa.insert(schedules),
            [
                {
                    "source": source,
                    "schedule_id": each,
                    "agent_id": agent_id,
                    "next_run": next_at,
                    "missed": at,
                    "checked_at": now,
                }
                for each, (agent_id, next_at, at) in sorted(seen.items())
            ],
        )
