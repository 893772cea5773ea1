"""Orphaned deliveries: of a sink that is not in the config any more, so that no worker sends them.

They wait until an operator gives them to another sink, which keeps their ids and so their idempotency keys, or cancels
them. A delivery's id is made of its event and the sink that it was made for: so one that was moved is known, and can
be moved back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from receiver.domain.delivery import ENDED, DeliveryState
from receiver.domain.event import delivery_id
from receiver.ledger import dialect, stats
from receiver.ledger.deliveries import same_result
from receiver.ledger.schema import deliveries

# Deliveries that one transaction changes at the most, so that nobody waits long for the ledger.
PAGE = 500

# By sink, how many deliveries are in each state.
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Moved:
    """One page of a move. `cursor`: where the next page goes on; "" at the end. `left`: deliveries of events that the
    other sink has a delivery of already."""

    count: int
    left: int
    cursor: str


def orphaned(counts: Mapping[tuple[str, str], int], sinks: Collection[str]) -> Counts:
    """Return those of the counts, by (sink, state), that are of no sink in `sinks`, which are those of the config, and
    of no delivery that has ended: a dead letter is listed as such."""
    found: Counts = {}
    for (sink, state), count in sorted(counts.items()):
        if sink not in sinks and DeliveryState(state) not in ENDED:
            found.setdefault(sink, {})[str(state)] = count
    return found


def count(connection: sa.Connection, sinks: Collection[str]) -> Counts:
    """Count the deliveries that have not ended, of sinks that are none of `sinks`."""
    return orphaned(stats.counts(connection, besides=sinks), sinks)


def in_words(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a sentence for each such sink, for an operator."""
    return [
        f"the sink {sink} is not in the config and has {', '.join(f'{n} {state}' for state, n in states.items())}: "
        f"`runhook sink move {sink} NAME` gives them to another sink, `runhook cancel --sink {sink}` ends them"
        for sink, states in found.items()
    ]


def move(
    connection: sa.Connection,
    old: str,
    new: str,
    now: float,
    *,
    cursor: str = "",
    delivered: bool = False,
    undo: bool = False,
) -> Moved:
    """Give a page of the deliveries of `old` to `new`: those that were not delivered, and with `delivered` those too.

    They keep their ids, and are new efforts: due now, no attempt spent. A dead or cancelled one stays what it is. What
    is being sent is not moved, nor a result that `new` has a delivery of. `undo`: only what an earlier move
    from `new` to `old` took.
    """
    states = [DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.WAITING, DeliveryState.DEAD]
    states += [DeliveryState.CANCELLED, *([DeliveryState.DELIVERED] if delivered else [])]
    page = connection.execute(
        sa.select(deliveries.c.id, deliveries.c.source, deliveries.c.run_id, deliveries.c.event_id)
        .where(deliveries.c.sink == old, deliveries.c.state.in_([state.value for state in states]))
        .where(deliveries.c.id > cursor)
        .order_by(deliveries.c.id)
        .limit(PAGE)
    ).all()
    wanted = [row for row in page if not undo or row.id == delivery_id(row.event_id, new)]
    event_ids = {row.event_id for row in wanted}
    same_result.lock(connection, event_ids)
    # Of the same result, what was moved there is no obstacle: its updates follow it. What was made for `new` is.
    others = {
        each.asked
        for each in same_result.told(connection, event_ids, [new])
        if each.asked == each.event_id or (not undo and each.id == delivery_id(each.event_id, new))
    }
    ids = [row.id for row in wanted if row.event_id not in others]
    moved = 0
    for ended in (False, True):
        condition = deliveries.c.state.in_([state.value for state in states if (state in ENDED) is ended])
        fresh: dict[str, Any] = {} if ended else {"due_at": now, "spent": 0, "tried_at": None}
        changed = sa.update(deliveries).where(dialect.among(deliveries.c.id, ids), deliveries.c.sink == old, condition)
        moved += connection.execute(changed.values(sink=new, lane=new, updated_at=now, **fresh)).rowcount
    # In the same transaction, or what waits for these would be released in between.
    theirs = dialect.among(deliveries.c.event_id, sorted(event_ids))
    _rename_links(connection, theirs, old, new)
    return Moved(moved, len(wanted) - len(ids), page[-1].id if len(page) == PAGE else "")


def rename_links(connection: sa.Connection, old: str, new: str, cursor: str) -> str:
    """Let a page of the deliveries that wait for `old`, or would get its receipt, name `new` instead.

    Returns where the next page goes on, or "".
    """
    page = _rename_links(connection, deliveries.c.id > cursor, old, new)
    return page[-1] if len(page) == PAGE else ""


def _rename_links(connection: sa.Connection, condition: sa.ColumnElement[bool], old: str, new: str) -> list[str]:
    page = connection.execute(
        sa.select(deliveries.c.id, deliveries.c.after)
        .where(deliveries.c.state.not_in([state.value for state in ENDED]), condition)
        .where(deliveries.c.after.contains(json.dumps(old), autoescape=True))
        .order_by(deliveries.c.id)
        .limit(PAGE)
    ).all()
    for row in page:
        after = list(dict.fromkeys(new if each == old else each for each in json.loads(row.after)))
        connection.execute(sa.update(deliveries).where(deliveries.c.id == row.id).values(after=json.dumps(after)))
    return [row.id for row in page]
