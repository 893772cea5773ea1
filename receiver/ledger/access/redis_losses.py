"""When Redis lost its data: recorded in the audit by a dispatcher that finds no inbox, or an older copy of it.

Events that were acknowledged and not recorded yet are missing then, until a reconcile has imported their results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from receiver.ledger import heartbeats, stats
from receiver.ledger.access import audit
from receiver.ledger.access.audit import AuditActor
from receiver.ledger.database.database_clock import database_now
from receiver.ledger.schema import events

# The actions in the audit: a loss, and an import of missing results.
LOSS: Final = "redis.lost"
IMPORT: Final = "reconcile.import"
# Seconds after which a loss is recorded again while the inbox is still missing.
AGAIN: Final = 3600.0
# Seconds by which an inbox must be older than the ledger: clocks of hosts differ.
OLDER: Final = 300.0
_NEWEST: Final = 100  # events in which the newest webhook is sought


def is_older(connection: sa.Connection, read_at: Callable[[], float]) -> bool:
    """Return whether the inbox is an older copy, and no loss was recorded lately or since the newest webhook.

    `read_at`: returns when the newest entry that was ever read from the inbox was added. It is called after the ledger
    was read: each webhook that is recorded by then was read from the inbox before, maybe by another dispatcher.
    """
    it = events.c
    newest = sa.select(it.via, it.received_at, it.recorded_at).order_by(it.seq.desc()).limit(_NEWEST)
    webhooks = [row for row in connection.execute(newest) if row.via == "webhook"]
    # A receiver's clock may be ahead, but no webhook came after it was recorded.
    if max((min(row.received_at, row.recorded_at) for row in webhooks), default=0.0) < read_at() + OLDER:
        return False
    since = min(webhooks[0].recorded_at, database_now(connection) - AGAIN)  # where clocks differ too much: once an hour
    return not audit.list_actions(connection, actions=[LOSS], since=since, limit=1)


def record_loss(connection: sa.Connection) -> bool:
    """Record that Redis lost its data, and return True, if this deployment has received webhooks before.

    A process that started before the last webhook was recorded shows that: a copied ledger has no processes yet. For
    AGAIN seconds a loss whose results are not imported is not recorded again, unless a webhook was: a Redis that is
    full has no inbox until it has room.
    """
    last = stats.newest(connection, math.inf).webhook_at
    if last is None or all(each.beat.started_at > last for each in heartbeats.list_processes(connection)):
        return False
    if last_loss(connection, max(last, database_now(connection) - AGAIN)) is not None:
        return False
    audit.record(connection, AuditActor("process", "dispatch"), LOSS, {}, 0, detail="no inbox, or an older one")
    return True


def last_loss(connection: sa.Connection, since: float) -> float | None:
    """Return when Redis last lost its data after `since`, unless a complete import of all sources went back over it."""
    for loss in audit.list_actions(connection, actions=[LOSS], since=since, limit=1):
        imports = audit.list_actions(connection, actions=[IMPORT], since=loss.at, limit=100)
        if not any(it.outcome == audit.DONE and not it.source and it.selection["since"] <= loss.at for it in imports):
            return loss.at
    return None
