"""Claim deliveries: decide which worker process sends a delivery, and until when. Sends nothing.

A claim is the state `sending` with two columns: `claim_owner` names one worker process, and is never reused;
`claim_until` is when the claim lapses. `attempts` is then the number of the attempt that the claim allows.

Making      One transaction claims due deliveries, oldest first, and skips shut lanes (fair_queue.py). Another one loads
            their bodies (claimed.py), because a transaction that sends a large result to a vanished host stays open.
            Dispatch records new deliveries as claimed for a sink in its process that has room (creation.py).
Fence       Each change of a claimed delivery names its id, its owner and the attempt's number, so a process whose claim
            has lapsed changes nothing. Its attempt is recorded nevertheless (attempts.py).
Renewal     While sending, the owner extends `claim_until`. It starts no send after that time, by the same clock.
Hand back   A claimed delivery that never started is queued as if it had never been claimed.
Lapse       A claim that its owner no longer renews lapses. The clock queues the delivery again, with a `lapsed`
            attempt, since its request may have arrived (recovery.py).
Death       The process that replaces a dead owner releases its claims at once: they lapse.
Poison      A delivery that lapses four times in a row may be what kills workers: it becomes dead.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.breaker import shut_since
from receiver.domain.delivery import DeliveryMove, DeliveryState, state_after
from receiver.domain.time_limits import CLAIM
from receiver.ledger.database import dialect
from receiver.ledger.deliveries import fair_queue, lanes
from receiver.ledger.deliveries.claimed import Claimed, columns, delivery_columns, to_claimed
from receiver.ledger.deliveries.fair_queue import ManyLanes
from receiver.ledger.schema import deliveries, events
from receiver.ledger.schema import lanes as lane_rows

# Maximum bytes of bodies in one claim, which always takes at least one delivery.
CLAIM_BYTES: Final = 16 << 20
# Of the free places of a sink with many lanes, one in PROBES is for probes, but at least one.
PROBES: Final = 4

_SINK: Final = sa.bindparam("b_sink", type_=sa.Text())
_NOW: Final[sa.BindParameter[float]] = sa.bindparam("b_now", type_=sa.Double())


def _due(*conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return the query that locks the oldest deliveries that meet the conditions.

    Its rows have the columns for `to_claimed` and the size of the body, in no particular order. They are locked before
    the joins, so that no query plan reads more of the queue.
    """
    found = sa.select(*delivery_columns()).where(*conditions)
    found = found.order_by(deliveries.c.due_at).limit(sa.bindparam("b_limit", type_=sa.Integer()))
    locked = found.with_for_update(skip_locked=True).cte("due").prefix_with("MATERIALIZED")
    size = sa.func.length(events.c.body).label("size")
    return sa.select(*columns(locked.c), size).join(events, events.c.id == locked.c.event_id)


_OF_SINK: Final = _due(fair_queue.due(_SINK, _NOW))
_OF_LANE: Final = _due(
    *(fair_queue.due(_SINK, _NOW), fair_queue.ONE_OF_MANY, deliveries.c.lane == sa.bindparam("b_lane", type_=sa.Text()))
)
_OF_IDS: Final = _due(dialect.row_by_row(fair_queue.due(_SINK, _NOW)), dialect.among_given(deliveries.c.id, "b_ids"))


_CLAIM: Final = (
    sa.update(deliveries)
    .where(dialect.among_given(deliveries.c.id, "b_ids"))
    .values(
        state=state_after(DeliveryMove.CLAIM),
        attempts=deliveries.c.attempts + 1,
        updated_at=_NOW,
        claim_owner=sa.bindparam("b_owner"),
        claim_until=sa.bindparam("b_until"),
    )
)


class Claims(list[Claimed]):
    """The result of `claim`. `all_due`: as far as known, no other delivery may be sent now."""

    def __init__(self, claimed: Iterable[Claimed] = (), *, all_due: bool = True) -> None:
        super().__init__(claimed)
        self.all_due = all_due


def claim(
    connection: sa.Connection,
    sink: str,
    limit: int,
    owner: str,
    now: float,
    seconds: float = CLAIM,
    *,
    most_bytes: int = CLAIM_BYTES,
    many: ManyLanes | None = None,
    earlier: Claims | None = None,
) -> Claims:
    """Claim up to `limit` due deliveries for `sink`, oldest first, for `seconds`.

    The cost does not depend on the length of the queue. If the sink's breaker is not closed, claims only the probe.
    `many`: for a sink with many lanes. `earlier`: claimed by an earlier try of this transaction, and returned if that
    was committed.
    """
    if earlier and renew(connection, owner, earlier, now + seconds):
        return earlier
    own = lanes.find(connection, sink)
    if limit <= 0 or (own is not None and own.paused):
        return Claims()
    finding = _Finding(connection, sink, now, most_bytes)
    probes: dict[str, float] = {}
    if many is not None:
        found, probes = finding.in_many_lanes(limit, many)
        all_due = not found
    elif own is None or own.breaker == "closed":
        found, all_due = finding.oldest(limit)
    elif own.until <= now:
        (found, probes), all_due = finding.probe(sink), True
    else:
        return Claims()
    if found:
        given = {"b_owner": owner, "b_until": now + seconds, "b_now": now}
        connection.execute(_CLAIM, {"b_ids": sorted(row.id for row in found), **given})
    return Claims((to_claimed(row, now, probes.get(row.id)) for row in found), all_due=all_due)


class _Finding:
    """The search for the deliveries of one claim: rows of `_due` with at most `most_bytes` of bodies."""

    def __init__(self, connection: sa.Connection, sink: str, now: float, most_bytes: int) -> None:
        self._connection = connection
        self._sink = sink
        self._now = now
        self._most_bytes = most_bytes

    def oldest(self, limit: int, query: sa.Select[Any] = _OF_SINK, **given: Any) -> tuple[list[Any], bool]:
        """Return the oldest rows of a query of `_due`, and whether these are all. `given`: its other parameters."""
        given |= {"b_sink": self._sink, "b_now": self._now, "b_limit": limit}
        rows = sorted(self._connection.execute(query, given).all(), key=attrgetter("due_at"))
        total = 0
        for count, row in enumerate(rows):
            total += row.size
            if count and total > self._most_bytes:
                return rows[:count], False
        return rows, len(rows) < limit

    def in_many_lanes(self, limit: int, many: ManyLanes) -> tuple[list[Any], dict[str, float]]:
        """Return deliveries of several lanes in turn, and the probes, as `probe` does."""
        chosen, shut = fair_queue.choose(self._connection, self._sink, limit, self._now, many)
        rows = self.oldest(limit, _OF_IDS, b_ids=chosen)[0] if chosen else []
        probes: dict[str, float] = {}
        # Shut lanes get only places that no open lane needs, and few of them, because their sends may hang.
        most = min(max(1, limit // PROBES), max(1, many.places // PROBES) - many.probing)
        for waiting in shut[: max(0, most)]:
            if len(rows) < limit:
                probed, since = self.probe(waiting.lane)
                rows += probed
                probes |= since
        return rows, probes

    def probe(self, lane: str) -> tuple[list[Any], dict[str, float]]:
        """Return the delivery that probes a shut lane, and by its id the time since when the lane counts as shut."""
        before = lanes.begin_probe(self._connection, lane, self._now)
        if before is None:
            return [], {}
        rows, _ = self.oldest(1) if lane == self._sink else self.oldest(1, _OF_LANE, b_lane=lane)
        if not rows:
            lanes.end_probe(self._connection, before, self._now)
        return rows, {row.id: shut_since(before, self._now) for row in rows}


_THESE: Final = dialect.among_given(deliveries.c.id, "b_ids")
_ATTEMPT: Final = deliveries.c.id + sa.literal_column("' '") + sa.cast(deliveries.c.attempts, sa.Text())
_UNLOCKED: Final = (
    sa.select(deliveries.c.id)
    .where(
        _THESE,
        dialect.row_by_row(
            deliveries.c.state == DeliveryState.SENDING,
            deliveries.c.claim_owner == sa.bindparam("b_owner"),
            dialect.among_given(_ATTEMPT, "b_attempts"),
        ),
    )
    .with_for_update(skip_locked=True)
    .cte("unlocked")
)
_RENEW: Final = (
    sa.update(deliveries)
    .where(_THESE, deliveries.c.id.in_(sa.select(_UNLOCKED.c.id)))
    .values(claim_until=sa.bindparam("b_until"))
    .returning(_ATTEMPT)
)


def renew(connection: sa.Connection, owner: str, claimed: Collection[Claimed], until: float) -> list[Claimed]:
    """Extend these claims of the owner to `until`. Returns the renewed ones.

    Never waits for another transaction: deliveries that one has locked are skipped, and may be renewed the next time.
    """
    by_attempt = {f"{each.id} {each.attempt_number}": each for each in claimed}
    given = {"b_ids": sorted(each.id for each in claimed), "b_attempts": list(by_attempt)}
    renewed = connection.execute(_RENEW, {**given, "b_owner": owner, "b_until": until}).scalars()
    return [by_attempt[each] for each in renewed]


_ASKED: Final = dialect.given_texts("b_sinks")
# EXISTS would drop the order, and PostgreSQL might then search the whole table for one row.
_OLDEST: Final = (
    sa.select(deliveries.c.due_at).where(fair_queue.due(_ASKED, _NOW)).order_by(deliveries.c.due_at).limit(1)
)
_WAITS: Final = sa.or_(lane_rows.c.paused, sa.and_(lane_rows.c.breaker != "closed", lane_rows.c.until > _NOW))
_DUE_SINKS: Final = sa.select(_ASKED).where(
    _OLDEST.scalar_subquery().is_not(None),
    sa.not_(sa.select(lane_rows.c.lane).where(lane_rows.c.lane == _ASKED, _WAITS).exists()),
)


def due_sinks(connection: sa.Connection, sinks: Sequence[str], now: float) -> list[str]:
    """Return those of `sinks` that have due deliveries which a worker could claim now, with one query.

    Deliveries behind an open breaker count only when the next probe is due.
    """
    return list(connection.scalars(_DUE_SINKS, {"b_sinks": json.dumps(list(sinks)), "b_now": now}))


def count_due(connection: sa.Connection, sink: str, most: int, now: float) -> int:
    """Return the number of deliveries that a claim could take now, up to `most`; 1 for a sink to probe."""
    if not due_sinks(connection, [sink], now):
        return 0
    own = lanes.find(connection, sink)
    if own is not None and own.breaker != "closed":
        return 1
    found = sa.select(deliveries.c.id).where(fair_queue.due(sink, now)).order_by(deliveries.c.due_at).limit(most)
    return connection.execute(sa.select(sa.func.count()).select_from(found.subquery())).scalar_one()
