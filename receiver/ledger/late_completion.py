"""Events that are completed after they were recorded, since more is known of their run; and how far the deliveries are
that were made of them before.

A delivery that is not being sent yet reads its event when it is. One that is, or was, may have gone without.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.domain.run import Run, RunKey
from receiver.ledger import dialect, words
from receiver.ledger.schema import deliveries, events, runs


class LateCompletion(NamedTuple):
    """What the columns of an event say once it is completed. `completion`: JSON; `extent`: as text."""

    event_id: str
    completion: str
    extent: str


class MadeDelivery(NamedTuple):
    """A delivery that is there. `begun`: it is being sent, or was delivered."""

    sink: str
    route: str
    lane: str
    after: tuple[str, ...]
    begun: bool


def put(connection: sa.Connection, completed: Sequence[LateCompletion]) -> None:
    """Complete these events, of runs that are locked."""
    for each in sorted(completed):
        # What is computed once it is compared stays empty until then.
        extent = sa.case((events.c.fingerprint == "", events.c.extent), else_=each.extent)
        changed = {"completion": each.completion, "extent": extent}
        connection.execute(sa.update(events).where(events.c.id == each.event_id).values(changed))


def put_status(connection: sa.Connection, key: RunKey, event_id: str, run: Run, now: float) -> None:
    """Give a run, which is locked, what its newest event tells of it by now. `event_id`: that event, else nothing."""
    told = {
        column: sa.func.coalesce(value, column)
        for column, value in ((runs.c.title, run.title), (runs.c.workflow_id, run.workflow_id))
    }
    here = sa.and_(runs.c.source == key[0], runs.c.run_id == key[1], runs.c.event_id == event_id)
    connection.execute(sa.update(runs).where(here).values(told))
    words.queue(connection, [key], now)


def lock_deliveries(connection: sa.Connection, event_ids: Collection[str]) -> Mapping[str, Sequence[MadeDelivery]]:
    """Lock the deliveries of these events until the transaction ends, and return them by event: what is claimed after
    that is read with what this transaction has written."""
    it = deliveries.c
    query = sa.select(it.event_id, it.sink, it.route, it.lane, it.after, it.state).where(
        dialect.among(it.event_id, event_ids)
    )
    found: defaultdict[str, list[MadeDelivery]] = defaultdict(list)
    for row in connection.execute(query.order_by(it.id).with_for_update()):
        begun = row.state in (DeliveryState.SENDING, DeliveryState.DELIVERED)
        found[row.event_id].append(MadeDelivery(row.sink, row.route, row.lane, tuple(json.loads(row.after)), begun))
    return found
