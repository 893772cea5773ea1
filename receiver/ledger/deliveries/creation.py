"""New deliveries in the ledger: the one maker of their rows."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, state_after
from receiver.domain.event import delivery_id
from receiver.ledger import dialect
from receiver.ledger.deliveries.claimed import UNCLAIMED
from receiver.ledger.schema import deliveries, events


class ClaimAtOnce(NamedTuple):
    """The claim with which new deliveries are recorded: those with these `ids`, for `owner`; it lapses at `until`."""

    owner: str
    until: float
    ids: Collection[str]

    def of(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row of a new delivery, claimed if it is one of these."""
        if row["id"] not in self.ids:
            return row
        return row | {"state": _CLAIMED, "attempts": 1, "claim_owner": self.owner, "claim_until": self.until}


_CLAIMED: Final = state_after(DeliveryMove.CLAIM)


def delivery_row(
    event_id: str,
    source: str,
    run_id: str,
    sink: str,
    route: str,
    now: float,
    *,
    lane: str = "",
    after: Sequence[str] = (),
    address: str = "",
    key_id: str = "",
    again: str = "",
) -> dict[str, Any]:
    """Return the row of a delivery that is due `now`, or held until the sinks `after` have ended.

    `lane`: what its breaker guards, normally the sink itself. `address`: of a callback, if not its submission's own,
    and `key_id`: the key that gave it; `again`: why the sink gets the event once more. Such deliveries have an id, and
    so an idempotency key, of their own.
    """
    more = f"{key_id} {address}" if address else again
    return {
        "id": delivery_id(event_id, f"{sink} {more}" if more else sink),
        "event_id": event_id,
        "sink": sink,
        "lane": lane or sink,
        "route": route,
        "source": source,
        "run_id": run_id,
        "after": json.dumps(after) if after else "[]",
        "state": DeliveryState.HELD if after else DeliveryState.QUEUED,
        "due_at": now,
        "created_at": now,
        "updated_at": now,
        "target": address,
        "target_key": key_id,
        "attempts": 0,
        **UNCLAIMED,
    }


def add(connection: sa.Connection, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Insert deliveries of events that were recorded before. Returns the ids of the new ones.

    The events are kept until the transaction ends; one that retention has removed meanwhile gets none.
    """
    wanted = list(rows)
    ids = dialect.among(events.c.id, sorted({row["event_id"] for row in wanted}))
    kept = sa.select(events.c.id).where(ids).order_by(events.c.id).with_for_update(read=True, key_share=True)
    there = set(connection.execute(kept).scalars())
    return insert(connection, [row for row in wanted if row["event_id"] in there])


def insert(connection: sa.Connection, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Insert deliveries that are not there yet, sorted by id. Returns the ids of the new ones."""
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    made = dialect.insert_many(connection, deliveries, ordered, dialect.do_nothing, (deliveries.c.id,))
    return [row.id for row in made]
