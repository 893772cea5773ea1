"""Count and move orphaned deliveries: no worker sends them, because their sink was removed from the config.

They wait until an operator cancels them, or moves them to another sink, which keeps their ids and so their idempotency
keys. A delivery's id is derived from its event and its original sink, so a moved delivery is recognized, and can be
moved back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from receiver.domain.delivery import ENDED, DeliveryState
from receiver.domain.event import delivery_id
from receiver.ledger import dialect, stats
from receiver.ledger.deliveries import same_result
from receiver.ledger.schema import deliveries

# Maximum deliveries that one transaction changes, so that others do not wait long for the ledger.
PAGE = 500

# Number of deliveries by sink and state.
Counts = dict[str, dict[str, int]]


def orphaned(counts: Mapping[tuple[str, str], int], sinks: Collection[str]) -> Counts:
    """Return the counts of pending deliveries of removed sinks. `sinks`: those in the config.

    Dead ones do not count: they are listed as dead letters.
    """
    found: Counts = {}
    for (sink, state), count in sorted(counts.items()):
        if sink not in sinks and DeliveryState(state) not in ENDED:
            found.setdefault(sink, {})[str(state)] = count
    return found


def count(connection: sa.Connection, sinks: Collection[str]) -> Counts:
    """Count the pending deliveries of sinks other than `sinks`."""
    return orphaned(stats.counts(connection, besides=sinks), sinks)


def in_words(found: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a sentence for each removed sink, for an operator."""
    return [
        f"removed sink {sink} has pending deliveries: {', '.join(f'{n} {state}' for state, n in states.items())}; "
        f"`runhook sink move {sink} NAME` moves them to another sink, `runhook cancel --sink {sink}` cancels them"
        for sink, states in found.items()
    ]


def move(
    connection: sa.Connection,
    old: str,
    new: str,
    ids: Collection[str],
    states: Collection[DeliveryState],
    now: float,
    *,
    undo: bool = False,
) -> int:
    """Move those of these deliveries of `old` that are in one of the states to `new`. Returns how many.

    They keep their ids, and start over: due now, no attempt spent. Ended ones keep their state. Skips results that
    `new` has a delivery of. `undo`: only deliveries that an earlier move took from
    `new` to `old`.
    """
    it = deliveries.c
    named = sa.select(it.id, it.event_id).where(dialect.among(it.id, ids), it.sink == old)
    wanted = [row for row in connection.execute(named) if not undo or row.id == delivery_id(row.event_id, new)]
    event_ids = {row.event_id for row in wanted}
    same_result.lock(connection, event_ids)
    # Deliveries moved to `new` do not block others of the same result: its updates follow. Those created for `new` do.
    others = {
        each.asked
        for each in same_result.existing_deliveries(connection, event_ids, [new])
        if each.asked == each.event_id or (not undo and each.id == delivery_id(each.event_id, new))
    }
    mine = dialect.among(it.id, [row.id for row in wanted if row.event_id not in others])
    moved = 0
    for ended in (False, True):
        condition = it.state.in_([state.value for state in states if (state in ENDED) is ended])
        fresh: dict[str, Any] = {} if ended else {"due_at": now, "spent": 0, "tried_at": None}
        changed = sa.update(deliveries).where(mine, it.sink == old, condition)
        moved += connection.execute(changed.values(sink=new, lane=new, updated_at=now, **fresh)).rowcount
    # In the same transaction, or deliveries that wait for these would be released in between.
    _rename_links(connection, dialect.among(it.event_id, sorted(event_ids)), old, new)
    return moved


def rename_links(connection: sa.Connection, old: str, new: str, cursor: str) -> str:
    """Replace `old` by `new` in a page of the deliveries that wait for it, or would get its receipt.

    Returns where the next page continues, or "".
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
