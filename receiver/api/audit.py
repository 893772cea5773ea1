"""The audit as a list: who did what, when, on how many."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from pydantic import Field

from receiver.api import cursor
from receiver.api.endpoint import Endpoint
from receiver.api.models import MAX_VALUES, AskedFor, Moment, MomentParameter, Page, PageParameters, Result
from receiver.api.names import unknown
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.ledger import Connection, audit

# What is done, as commands, buttons and calls name it. The ledger may have others, of another version.
ACTIONS: Final = (
    "replay",
    "backfill",
    "cancel",
    "restore",
    "resubmit",
    "operation.cancel",
    "sink.pause",
    "sink.resume",
    "sink.test",
    "sink.move",
    "key.create",
    "key.revoke",
    "agent.connect",
    "agent.disconnect",
    "quarantine.verify",
    "quarantine.drop",
    "view.save",
    "view.rename",
    "view.remove",
    "clock.correct",
)


class ActionRow(Result):
    """An action that was begun or done."""

    id: int
    at: Moment
    actor_kind: str = Field(description="key, user, cli, or process for what Runhook does automatically.")
    actor: str = Field(description="The name of the key or user.")
    key_id: str
    action: str = Field(description="replay, cancel, resubmit, sink.pause, key.create …")
    source: str = Field(description="On whose things; empty: of all sources.")
    selection: AskedFor = Field(description="What it was asked to take.")
    count: int = Field(description="On how many.")
    outcome: str = Field(description="begun, done or failed. What stays begun was cut off.")
    detail: str = Field(description="The operation that works it off, or why it failed.")
    ended_at: Moment | None


class AuditParameters(PageParameters):
    """Which actions."""

    action: tuple[str, ...] = Field((), max_length=MAX_VALUES, description="Filter by action.")
    actor: str = Field("", max_length=200, description="Filter by name of the key or user.")
    since: MomentParameter | None = Field(None, description="Start of the time range: 15m, 2h or 7d ago, or a time.")
    until: MomentParameter | None = Field(None, description="End of the time range.")


def list_audit(service: Service, _actor: Actor, wanted: AuditParameters) -> Page[ActionRow]:
    """List who did what, the newest first."""
    position = cursor.decode("audit", wanted.after, (int,))

    def read(connection: Connection) -> list[audit.AuditedAction]:
        found = audit.list_actions(
            connection,
            source=wanted.source,
            actions=wanted.action,
            actor=wanted.actor,
            since=wanted.since,
            until=wanted.until,
            before=position[0] if position else None,
            limit=wanted.limit,
        )
        for each in () if found else wanted.action:
            if each not in ACTIONS and not audit.has_action(connection, each):
                raise unknown("action", each, "there is no such action", ACTIONS)
        return found

    found = service.ledger.read(read)
    last = (found[-1].id,) if len(found) == wanted.limit else None
    return Page(items=[ActionRow(**asdict(each)) for each in found], next=cursor.encode("audit", last))


LIST_AUDIT = Endpoint("list_audit", "GET", "/audit", VIEW, AuditParameters, Page[ActionRow], list_audit)
ENDPOINTS = (LIST_AUDIT,)
