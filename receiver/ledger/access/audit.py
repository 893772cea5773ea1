"""The audit: who did what, when, on how many. Written with the action in one transaction where that is in the ledger.

An action elsewhere (files of the quarantine, a sink that is tested) is begun here before and ended here after it: one
whose process died in between stays begun, and so is seen. What was refused is not here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger.database.database_clock import database_now
from receiver.ledger.database.dialect import forbid_rerun, json_text, storable
from receiver.ledger.schema import audit

BEGUN: Final = "begun"
DONE: Final = "done"
FAILED: Final = "failed"
# Minimum seconds for which the audit is kept, even if events are kept for a shorter time.
KEPT_FOR: Final = 400 * 86_400.0


@dataclass(frozen=True, slots=True)
class AuditActor:
    """Who acts. `kind`: cli, key, user …; `name`: the user or the key's name; `key_id`: of an API key, or "".

    `address`: of the client that called the API or used the console, or ""."""

    kind: str
    name: str
    key_id: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class AuditedAction:
    """One action. `source`: on whose things, "" for all; `selection`: what it was asked to take; `count`: on how many;
    `outcome`: begun, done or failed; `detail`: an operation's id, or why it failed. Times: seconds since the epoch."""

    id: int
    at: float
    actor_kind: str
    actor: str
    key_id: str
    action: str
    source: str
    selection: Mapping[str, Any]
    count: int
    outcome: str
    detail: str
    ended_at: float | None
    address: str


def who(actor: str, kind: str) -> str:
    """Return an actor for people: its name, and whether that is of a key, a console user or the command line."""
    what = {"user": "console user", "cli": "command line", "process": ""}.get(kind, kind)
    return f"{actor} ({what})" if what else actor


def record(
    connection: sa.Connection,
    actor: AuditActor,
    action: str,
    selection: Mapping[str, Any],
    count: int,
    *,
    source: str = "",
    outcome: str = DONE,
    detail: str = "",
) -> int:
    """Write an action, at the database's time, and return its number. `outcome`: BEGUN for one that `end` will end.

    Forbids a rerun of its transaction, which would write a second line. `selection`: values that JSON has; no secrets.
    """
    forbid_rerun(connection)
    now = database_now(connection)
    row = {
        "at": now,
        "actor_kind": actor.kind,
        "actor": storable(actor.name),
        "key_id": actor.key_id,
        "action": action,
        "source": source,
        "selection": json_text(selection),
        "count": count,
        "outcome": outcome,
        "detail": storable(detail),
        "ended_at": None if outcome == BEGUN else now,
        "address": actor.address,
    }
    return int(connection.execute(sa.insert(audit).values(row).returning(audit.c.id)).scalar_one())


def end(connection: sa.Connection, number: int, outcome: str, count: int, detail: str = "") -> None:
    """Write how an action ended that was begun. One that has ended stays as it is."""
    connection.execute(
        sa.update(audit)
        .where(audit.c.id == number, audit.c.outcome == BEGUN)
        .values(outcome=outcome, count=count, detail=storable(detail), ended_at=database_now(connection))
    )


def list_actions(
    connection: sa.Connection,
    limit: int = 50,
    *,
    source: str = "",
    actions: Collection[str] = (),
    actor: str = "",
    since: float | None = None,
    until: float | None = None,
    after: tuple[int] | None = None,
) -> list[AuditedAction]:
    """Return actions, the newest first. `source`: only those on its things. `after`: only those with a lower number.

    Times: the first is included, the last not.
    """
    query = sa.select(audit).order_by(audit.c.id.desc()).limit(limit)
    if source:
        query = query.where(audit.c.source == source)
    if actions:
        query = query.where(audit.c.action.in_(sorted(actions)))
    if actor:
        query = query.where(audit.c.actor == actor)
    if since is not None:
        query = query.where(audit.c.at >= since)
    if until is not None:
        query = query.where(audit.c.at < until)
    if after is not None:
        query = query.where(audit.c.id < after[0])
    rows = connection.execute(query)
    return [AuditedAction(**{**row._mapping, "selection": json.loads(row.selection)}) for row in rows]


def has_action(connection: sa.Connection, action: str) -> bool:
    """Whether an action of this name was ever done."""
    query = sa.select(sa.literal(1)).select_from(audit).where(audit.c.action == action).limit(1)
    return connection.execute(query).first() is not None


def remove(connection: sa.Connection, before: float, limit: int = 500) -> int:
    """Remove up to `limit` actions that are older than `before`, the oldest first. Returns how many."""
    old = sa.select(audit.c.id).where(audit.c.at < before).order_by(audit.c.at).limit(limit)
    return connection.execute(sa.delete(audit).where(audit.c.id.in_(old))).rowcount
