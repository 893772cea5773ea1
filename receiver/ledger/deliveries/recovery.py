"""Recover deliveries: release claims of dead workers, lapse expired claims, queue waiting deliveries when due, release
held ones that were missed, and end deliveries to a sink that stays down.

Each check without a match costs one indexed query, and each step changes a bounded number of rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, gave_up, state_after
from receiver.ledger.database import dialect
from receiver.ledger.deliveries import fair_queue, lanes, links
from receiver.ledger.deliveries.attempts import AttemptResult, record
from receiver.ledger.deliveries.claimed import SENDING, UNCLAIMED
from receiver.ledger.schema import attempts, deliveries
from receiver.ledger.schema import lanes as lane_rows

# Maximum deliveries that one step ends.
PAGE: Final = 500
# Maximum waiting deliveries that one transaction queues.
DUE_AT_ONCE: Final = 1000

# Seconds over which repeatedly lapsed deliveries are spread, doubled each time; and their maximum, because work must
# resume within 30 s of a kill.
_SPREAD: Final = 5.0
_LONGEST: Final = 20.0
# Lapses in a row that end a delivery, and its reason then.
_LAPSES: Final = 4
POISONED: Final = f"{_LAPSES} workers in a row ended while they had it: sending it may be what kills them"


def release_claims(connection: sa.Connection, owner: str, now: float) -> int:
    """Release up to 500 claims of a dead worker before they lapse. Returns their number."""
    held = _claims(connection, deliveries.c.claim_owner == owner)
    _lapse(connection, held, f"{owner} ended while sending: it may have arrived", now)
    if held:
        lanes.end_probes(connection, sorted({row.lane for row in held}), now)
    return len(held)


def lapse_claims(connection: sa.Connection, now: float) -> int:
    """Lapse up to 500 expired claims. Returns their number."""
    held = _claims(connection, deliveries.c.claim_until < now)
    _lapse(connection, held, "the claim ran out while sending: it may have arrived", now)
    return len(held)


def _claims(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Sequence[Any]:
    found = sa.select(deliveries).where(SENDING, condition).order_by(deliveries.c.claim_until).limit(PAGE)
    return connection.execute(found.with_for_update(skip_locked=True)).all()


def _lapse(connection: sa.Connection, held: Sequence[Any], reason: str, now: float) -> None:
    """Queue deliveries whose last attempt has an unknown result, and record it as `lapsed`.

    The first lapse spends no attempt, because most claims of a dead worker had not started. Deliveries that lapse again
    become due at different times: if one of them kills its workers, the others must not be sent together with it. The
    last of _LAPSES in a row ends a delivery as dead.
    """
    if not held:
        return
    before = _lapses(connection, held)
    lapsed = partial(AttemptResult, move=DeliveryMove.LAPSE, outcome="lapsed", reason=reason, ended_at=now)
    results = [lapsed(row.id, row.event_id, row.attempts, started_at=row.updated_at) for row in held]
    record(connection, [(row.claim_owner, result) for row, result in zip(held, results, strict=True)])
    first = [row for row in held if not before[row.id]]
    again = [row for row in held if 0 < before[row.id] < _LAPSES - 1]
    last = [row for row in held if before[row.id] >= _LAPSES - 1]
    changes = {"state": state_after(DeliveryMove.LAPSE), "updated_at": now, "reason": reason, **UNCLAIMED}
    if first:
        connection.execute(_these(first).values(**changes, due_at=now))
    for place, row in enumerate(again, 1):
        due_at = now + min(_SPREAD * 2 ** before[row.id], _LONGEST) * place / len(again)
        connection.execute(_these([row]).values(**changes, due_at=due_at, spent=deliveries.c.spent + 1))
    if last:
        dead = {"state": state_after(DeliveryMove.DIE), "reason": POISONED}
        connection.execute(_these(last).values({**changes, **dead, "spent": deliveries.c.spent + 1}))
        links.release_held(connection, {row.event_id for row in last}, now)


def _lapses(connection: sa.Connection, held: Sequence[Any]) -> dict[str, int]:
    """Count the attempts in a row that lapsed before the current one of each delivery."""
    query = sa.select(attempts.c.delivery_id, attempts.c.number).where(
        dialect.among(attempts.c.delivery_id, [row.id for row in held]), attempts.c.outcome == "lapsed"
    )
    lapsed = {(row.delivery_id, row.number) for row in connection.execute(query)}
    counts = dict.fromkeys((row.id for row in held), 0)
    for row in held:
        while (row.id, row.attempts - counts[row.id] - 1) in lapsed:
            counts[row.id] += 1
    return counts


def _these(rows: Sequence[Any]) -> sa.Update:
    return sa.update(deliveries).where(dialect.among(deliveries.c.id, [row.id for row in rows]))


def make_due(connection: sa.Connection, now: float, limit: int = DUE_AT_ONCE) -> int:
    """Queue up to `limit` waiting deliveries that are due. Returns their number."""
    found = _by_time(_ID, DeliveryState.WAITING, now >= _DUE_AT).order_by(_DUE_AT).limit(limit)
    due = connection.execute(found.with_for_update(skip_locked=True)).all()
    if due:
        # Do not repeat the condition on the state: PostgreSQL might then read the index of all waiting deliveries.
        connection.execute(_these(due).values(state=state_after(DeliveryMove.DUE), updated_at=now))
    return len(due)


# Columns without a table, which would add a second table to the FROM.
_ID, _DUE_AT, _CLAIM_UNTIL = (sa.column(name, deliveries.c[name].type) for name in ("id", "due_at", "claim_until"))


def _by_time(what: sa.ColumnElement[Any], state: DeliveryState, condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Select deliveries in `state` by their index over time.

    SQLite alone would read all in that state, and a hundred thousand may wait for hours.
    """
    theirs = dialect.by_index(deliveries, f"ix_deliveries_{state}")
    return sa.select(what).select_from(theirs).where(sa.text(f"state = '{state}'"), condition)


# Times of the clock's next changes, in seconds since the epoch: when the first waiting delivery is due, and when the
# first claim lapses.
NEXT_CHANGES: Final = tuple(
    _by_time(at, state, at.is_not(None)).order_by(at).limit(1)
    for state, at in (
        (DeliveryState.WAITING, _DUE_AT),
        (DeliveryState.SENDING, _CLAIM_UNTIL),
    )
)


def expire(connection: sa.Connection, sink: str, seconds: float, now: float) -> list[str]:
    """End as dead up to PAGE deliveries of `sink` that were due for `seconds` behind a breaker open all that time.

    So deliveries to a sink that stays down end although they are never tried. A probe must have failed after that time,
    so that the sink is probed first after Runhook was stopped. Skips a paused sink. Returns the lanes of ended ones.
    """
    ended: list[str] = []
    events: set[str] = set()
    for lane, reason in _expired_lanes(connection, sink, seconds, now):
        due = sa.select(deliveries.c.id, deliveries.c.event_id).where(fair_queue.due(sink, now - seconds))
        due = due.where(fair_queue.in_lane(sink, lane)).order_by(deliveries.c.due_at).limit(PAGE - len(ended))
        found = connection.execute(due.with_for_update(skip_locked=True)).all()
        changes = {"state": state_after(DeliveryMove.EXPIRE), "updated_at": now, "reason": gave_up(seconds) + reason}
        connection.execute(_these(found).values(**changes))
        events |= {row.event_id for row in found}
        ended += [lane] * len(found)
        if len(ended) == PAGE:
            break
    links.release_held(connection, events, now)
    return ended


def any_expired(connection: sa.Connection, sink: str, seconds: float, now: float) -> bool:
    """Whether `expire` would end a delivery."""
    return bool(_expired_lanes(connection, sink, seconds, now))


def _expired_lanes(connection: sa.Connection, sink: str, seconds: float, now: float) -> list[tuple[str, str]]:
    """Return some lanes with deliveries that `expire` would end, each with the reason of its breaker."""
    own = lanes.find(connection, sink)
    if own is not None and own.paused:
        return []
    it = lane_rows.c
    due = fair_queue.due(sink, now - seconds)
    # EXISTS would drop the order, and PostgreSQL might then search the whole table for one row.
    queued = sa.select(deliveries.c.due_at).where(due).order_by(deliveries.c.due_at).limit(1)
    of_lane = queued.where(fair_queue.ONE_OF_MANY, deliveries.c.lane == it.lane)
    shut = sa.select(it.lane, it.reason).where(
        it.sink == sink, it.breaker == "open", it.opened_at > 0, it.updated_at >= it.opened_at + seconds
    )
    found = [*connection.execute(shut.where(it.lane == sink, queued.scalar_subquery().is_not(None)))]
    found += connection.execute(shut.where(it.lane != sink, of_lane.scalar_subquery().is_not(None)).limit(PAGE))
    return [(row.lane, row.reason) for row in found]


def sweep_held(
    connection: sa.Connection, now: float, sinks: Collection[str] | None = None, after: str = ""
) -> tuple[list[str], str]:
    """Queue a page of held deliveries whose release was missed.

    They wait for a delivery of an earlier event that has ended, or for a sink other than `sinks`, those in the config.
    Returns their sinks, and the event `after` which the next page begins; "" at the end. An event that does not fit on
    the page is left to the next one.
    """
    it = deliveries.c.event_id
    held = sa.select(it).where(links.HELD, it > after).order_by(it).limit(links.PAGE)
    page, rest = connection.execute(held).scalars().all(), ""
    if len(page) == links.PAGE:
        page = [each for each in page if each != page[-1]] or page
        rest = page[-1]
    return links.release_held(connection, set(page), now, sinks), rest
