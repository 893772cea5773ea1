"""The audit: the list of actions, and how actions of the API are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from pydantic import Field

from receiver.api.endpoint import call
from receiver.api.listing import paged
from receiver.api.models import MAX_VALUES, AskedFor, Moment, MomentParameter, Page, PageParameters, Result
from receiver.api.names import unknown
from receiver.api.service import Actor, Service
from receiver.domain.api_key import VIEW
from receiver.errors import RunhookError
from receiver.ledger import Connection, Ledger
from receiver.ledger.access import audit
from receiver.ledger.access.audit import AuditActor, AuditedAction

# The names of actions. The ledger may have others, of another version.
_ACTIONS: Final = """
    replay cancel resubmit operation.cancel sink.pause sink.resume sink.test sink.move
    key.create key.revoke agent.connect agent.disconnect run.erase quarantine.verify quarantine.drop
    reconcile.import spool.send reroute clock.correct redis.lost
"""


@dataclass(slots=True)
class ActionOutcome:
    """How an action outside of the ledger ended, as the block that does it says. `count`: on how many."""

    count: int = 0
    outcome: str = audit.DONE
    detail: str = ""


def record_action(
    connection: Connection,
    actor: Actor,
    action: str,
    selection: Mapping[str, Any],
    count: int,
    **more: str,
) -> None:
    """Write an action that is done in this transaction into the audit. `more`: source, outcome and detail."""
    audit.record(connection, _auditable(actor), action, selection, count, **more)


@contextmanager
def audited(
    ledger: Ledger, actor: Actor, action: str, selection: Mapping[str, Any], *, source: str = ""
) -> Iterator[ActionOutcome]:
    """Write an action outside of the ledger into the audit, before the block does it and after it.

    A block that raises has failed. Raises LedgerUnavailable before anything is done.
    """
    begun = ledger.write(
        lambda it: audit.record(it, _auditable(actor), action, selection, 0, source=source, outcome=audit.BEGUN)
    )
    done = ActionOutcome()
    try:
        yield done
    except BaseException as error:
        done.outcome = audit.FAILED
        done.detail = done.detail or (str(error) if isinstance(error, RunhookError) else type(error).__name__)
        raise
    finally:
        ledger.write(lambda it: audit.end(it, begun, done.outcome, done.count, done.detail))


def _auditable(actor: Actor) -> AuditActor:
    return AuditActor(actor.kind, actor.name, actor.key_id, actor.address)


class ActionRow(Result):
    """An action that was begun or done."""

    id: int
    at: Moment
    actor_kind: str = Field(description="key, user, cli, or process for what Runhook does automatically.")
    actor: str = Field(description="The name of the key or user.")
    key_id: str
    action: str = Field(description="replay, cancel, resubmit, sink.pause, key.create …")
    source: str = Field(description="The source it was limited to; empty: all sources.")
    selection: AskedFor = Field(description="What it selected.")
    count: int = Field(description="The number of things it changed.")
    outcome: str = Field(description="begun, done or failed. One that stays begun was interrupted.")
    detail: str = Field(description="The operation that does it, or why it failed.")
    ended_at: Moment | None
    address: str = Field("", description="Of the client, for calls of the API and the console.")


class AuditParameters(PageParameters):
    """Which actions."""

    action: tuple[str, ...] = Field((), max_length=MAX_VALUES, description="Filter by action.")
    actor: str = Field("", max_length=200, description="Filter by name of the key or user.")
    since: MomentParameter | None = Field(None, description="Start of the time range: 2h ago, 22:43, or a time.")
    until: MomentParameter | None = Field(None, description="End of the time range.")


def list_audit(service: Service, _actor: Actor, parameters: AuditParameters) -> Page[ActionRow]:
    """List actions of users, keys and Runhook, newest first."""

    def read(connection: Connection, limit: int, **place: Any) -> list[AuditedAction]:
        which: dict[str, Any] = {"actions": parameters.action, "actor": parameters.actor}
        found = audit.list_actions(connection, limit, since=parameters.since, until=parameters.until, **which, **place)
        for each in () if found else parameters.action:
            if each not in _ACTIONS.split() and not audit.has_action(connection, each):
                raise unknown("action", each, "unknown action", _ACTIONS.split())
        return found

    found, following = paged(service, "audit", parameters, read, id=int)
    return Page(items=[ActionRow(**asdict(each)) for each in found], next=following)


LIST_AUDIT: Final = call("GET", "/audit", VIEW, list_audit)
