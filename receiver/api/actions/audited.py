"""Actions into the audit: who did it is the actor of the call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from receiver.api.service import Actor
from receiver.errors import RunhookError
from receiver.ledger import Connection, Ledger, audit
from receiver.ledger.audit import AuditActor


@dataclass(slots=True)
class ActionOutcome:
    """How an action outside of the ledger ended, as the block that does it says. `count`: on how many."""

    count: int = 0
    outcome: str = audit.DONE
    detail: str = ""


def note(
    connection: Connection,
    actor: Actor,
    action: str,
    selection: Mapping[str, Any],
    count: int,
    *,
    source: str = "",
    detail: str = "",
) -> None:
    """Write an action that is done in this transaction into the audit."""
    audit.record(connection, _auditable(actor), action, selection, count, source=source, detail=detail)


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
    return AuditActor(actor.kind, actor.name, actor.key_id)
