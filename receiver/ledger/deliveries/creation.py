"""Create deliveries in the ledger. No other module inserts them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, state_after
from receiver.domain.event import delivery_id
from receiver.ledger.database import many_rows
from receiver.ledger.deliveries import same_result
from receiver.ledger.deliveries.claimed import UNCLAIMED
from receiver.ledger.schema import deliveries, events


class ClaimAtOnce(NamedTuple):
    """A claim that new deliveries with these `ids` are recorded with, for `owner`. It lapses at `until`."""

    owner: str
    until: float
    ids: AbstractSet[str]

    def of(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row of a new delivery, claimed if its id is one of `ids`."""
        if row["id"] not in self.ids:
            return row
        return row | {"state": _CLAIMED, "attempts": 1, "claim_owner": self.owner, "claim_until": self.until}


_CLAIMED: Final = state_after(DeliveryMove.CLAIM)


class AddedDelivery(NamedTuple):
    """A delivery to `sink` to add to an event, because of `route`, due at once or held until the sinks `after` ended.

    `lane`: what its breaker guards, normally the sink itself. `again`: why the sink gets the event once more.
    `address`: of a callback, if not its submission's, and `key_id`: the key that gave it. The last three lead to a
    separate delivery id, and so to a separate idempotency key.
    """

    event_id: str
    source: str
    run_id: str
    sink: str
    route: str
    lane: str = ""
    after: tuple[str, ...] = ()
    again: str = ""
    address: str = ""
    key_id: str = ""

    @property
    def id(self) -> str:
        """The id of the delivery."""
        more = f"{self.key_id} {self.address}" if self.address else self.again
        return delivery_id(self.event_id, f"{self.sink} {more}" if more else self.sink)


def delivery_row(new: AddedDelivery, now: float) -> dict[str, Any]:
    """Return the row of a delivery that is created `now`."""
    return {
        "id": new.id,
        "event_id": new.event_id,
        "sink": new.sink,
        "lane": new.lane or new.sink,
        "route": new.route,
        "source": new.source,
        "run_id": new.run_id,
        "after": json.dumps(new.after) if new.after else "[]",
        "state": DeliveryState.HELD if new.after else DeliveryState.QUEUED,
        "due_at": now,
        "created_at": now,
        "updated_at": now,
        "target": new.address,
        "target_key": new.key_id,
        "attempts": 0,
        **UNCLAIMED,
    }


def add(connection: sa.Connection, new: AddedDelivery, now: float) -> bool:
    """Create a delivery of a recorded event, and lock the event until the transaction ends.

    Returns False if the delivery exists, or retention has removed the event.
    """
    kept = sa.select(events.c.id).where(events.c.id == new.event_id).with_for_update(read=True, key_share=True)
    return connection.execute(kept).first() is not None and bool(insert(connection, [delivery_row(new, now)]))


def give(connection: sa.Connection, wanted: Collection[AddedDelivery], now: float) -> list[AddedDelivery]:
    """Create deliveries of recorded events, and return the new ones.

    Skips a delivery if its sink has one of the same result, unless it has `again`.
    """
    there = same_result.lock(connection, {each.event_id for each in wanted})
    # The events are locked, so this query sees the deliveries that other transactions have created meanwhile.
    told = same_result.existing_deliveries(connection, there, {each.sink for each in wanted})
    has = {(each.asked, each.sink) for each in told}
    lacking = [
        each for each in wanted if each.event_id in there and (each.again or (each.event_id, each.sink) not in has)
    ]
    made = set(insert(connection, (delivery_row(each, now) for each in lacking)))
    return [each for each in lacking if each.id in made]


def insert(connection: sa.Connection, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Insert deliveries sorted by id, and skip existing ones. Returns the ids of the new ones."""
    ordered = sorted(rows, key=lambda row: str(row["id"]))
    made = many_rows.insert_many(connection, deliveries, ordered, many_rows.do_nothing, (deliveries.c.id,))
    return [row.id for row in made]
