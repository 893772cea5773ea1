"""Claims in the ledger: who sends what, and for how long nobody else does. Sends nothing.

A claim is "<owner>/<n>" with an expiry, renewed while its owner works on it. One with a "+" behind it is in hand only:
it has no place of its own among those that its sink's `concurrency` allows, and is begun in the place that another of
the same owner leaves.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, sources, target
from receiver.ledger import bulk
from receiver.ledger.deliveries import fair_queue, lanes
from receiver.ledger.schema import attempts, deliveries, events, runs

IN_HAND: Final = "+"
CLAIM_BYTES = 64 << 20
"""Bytes of bodies that one claim takes at the most (but always one delivery): 256 bodies of 16 MiB fill no memory."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is now ours to send, with the event it carries."""

    id: str
    event_id: str
    sink: str
    lane: str
    route: str
    number: int  # of this attempt
    spent: int
    probe: bool
    source: str
    run_id: str
    outcome: str
    via: str
    problem: str
    received_at: float
    body: bytes
    labels: Mapping[str, str]
    after: tuple[str, ...]
    in_hand: bool = False
    """It has no place yet."""


def claim(
    connection: sa.Connection,
    sink: str,
    limit: int,
    token: str,
    now: float,
    seconds: float,
    concurrency: int | None = None,
    lane_limit: int | None = None,
    ahead: int = 0,
) -> tuple[list[Claimed], str]:
    """Claim up to `limit` due deliveries for `sink`, oldest first. Returns them, and the lane that they probe or "".

    `concurrency`: how many places the sink has, over all workers; None is no limit. `lane_limit`: how many of one
    lane, and needs `concurrency`. `ahead`: how many more to take in hand, none of which was tried before; none at all
    when `limit` asks for places and there is none.
    """
    wanted = limit
    if concurrency is not None:
        limit = min(limit, concurrency - _placed(connection, sink))
        if limit <= 0 and not ahead:
            return [], ""
    closed = lanes.not_closed(connection, sink)
    if any(lane.paused for lane in closed):
        return [], ""
    shut = {lane.lane for lane in closed}
    ids: list[str] = []
    if limit <= 0:
        pass
    elif lane_limit is None and not closed:
        ids = _take(connection, sink, sa.true(), limit, token, now, seconds)
    else:
        claimed = _claimed_lanes(connection, sink) if lane_limit is not None else None
        chosen = fair_queue.choose(connection, sink, shut, limit, now, lane_limit=lane_limit, claimed=claimed)
        among = bulk.among(connection, deliveries.c.id, chosen)
        ids = _take(connection, sink, among, limit, token, now, seconds) if chosen else []
    probes: dict[str, str] = {}  # delivery → lane
    for lane in closed:
        # A sink with one lane has nothing else to send then; one with many has, and probes beside it.
        if len(ids) >= limit or (lane_limit is None and ids):
            break
        if lane.until <= now and lanes.begin_probe(connection, lane.lane, now):
            probe = _take(connection, sink, deliveries.c.lane == lane.lane, 1, token, now, seconds)
            if not probe:
                lanes.end_probe(connection, lane, now)
            probes.update(dict.fromkeys(probe, lane.lane))
            ids = [*ids, *probe]
    in_hand: list[str] = []
    if ahead and not closed and (ids or not wanted):  # a lane that is shut says that the sink is slow, not fast
        untried = deliveries.c.attempts == 0
        in_hand = _take(connection, sink, untried, ahead, token + IN_HAND, now, seconds)
    found = _load(connection, [*ids, *in_hand], probes, frozenset(in_hand)) if ids or in_hand else []
    return found, next(iter(probes.values()), "")


def _placed(connection: sa.Connection, sink: str) -> int:
    """How many of the sink's places are taken. Until the transaction ends no other worker claims for it."""
    if connection.dialect.name == "postgresql":  # on SQLite there is one writer at a time anyway
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"runhook claim {sink}"))))
    claimed = sa.select(sa.func.count()).where(
        deliveries.c.state == sa.literal_column(f"'{DeliveryState.SENDING}'"),
        deliveries.c.sink == sink,
        deliveries.c.claim.not_like(f"%{IN_HAND}"),
    )
    return connection.execute(claimed).scalar_one()


def _claimed_lanes(connection: sa.Connection, sink: str) -> Counter[str]:
    busy = connection.execute(
        sa.select(deliveries.c.lane).where(
            deliveries.c.state == sa.literal_column(f"'{DeliveryState.SENDING}'"), deliveries.c.sink == sink
        )
    )
    return Counter(busy.scalars())


def _take(
    connection: sa.Connection,
    sink: str,
    condition: sa.ColumnElement[bool],
    limit: int,
    token: str,
    now: float,
    seconds: float,
) -> list[str]:
    due = (
        sa.select(deliveries.c.id, sa.func.length(events.c.body))
        .join(events, events.c.id == deliveries.c.event_id)
        .where(fair_queue.due(sink, now), condition)
        .order_by(deliveries.c.due_at, deliveries.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=deliveries)
    )
    found: list[str] = []
    size = 0
    for delivery, length in connection.execute(due):
        size += length
        if found and size > CLAIM_BYTES:
            break
        found.append(delivery)
    if found:
        connection.execute(
            sa.update(deliveries)
            .where(bulk.among(connection, deliveries.c.id, found))
            .values(
                state=target(DeliveryMove.CLAIM),
                claim=token,
                claim_until=now + seconds,
                attempts=deliveries.c.attempts + 1,
                updated_at=now,
            )
        )
    return found


def _load(
    connection: sa.Connection, ids: Sequence[str], probes: Collection[str], in_hand: Collection[str]
) -> list[Claimed]:
    rows = connection.execute(
        sa.select(
            deliveries.c.id,
            deliveries.c.event_id,
            deliveries.c.sink,
            deliveries.c.lane,
            deliveries.c.route,
            deliveries.c.attempts,
            deliveries.c.spent,
            deliveries.c.after,
            deliveries.c.source,
            deliveries.c.run_id,
            events.c.outcome,
            events.c.via,
            events.c.problem,
            events.c.received_at,
            events.c.body,
            runs.c.labels,
        )
        .join(events, events.c.id == deliveries.c.event_id)
        .outerjoin(runs, sa.and_(runs.c.source == deliveries.c.source, runs.c.run_id == deliveries.c.run_id))
        .where(bulk.among(connection, deliveries.c.id, ids))
    )
    order = {each: place for place, each in enumerate(ids)}
    claimed = [
        Claimed(
            id=row.id,
            event_id=row.event_id,
            sink=row.sink,
            lane=row.lane,
            route=row.route,
            number=row.attempts,
            spent=row.spent,
            probe=row.id in probes,
            source=row.source,
            run_id=row.run_id,
            outcome=row.outcome,
            via=row.via,
            problem=row.problem,
            received_at=row.received_at,
            body=bytes(row.body),
            labels=json.loads(row.labels or "{}"),
            after=tuple(json.loads(row.after)),
            in_hand=row.id in in_hand,
        )
        for row in rows
    ]
    return sorted(claimed, key=lambda each: order[each.id])


def receipts(connection: sa.Connection, event_id: str, sinks: Collection[str]) -> dict[str, dict[str, Any] | None]:
    """The receipts of `sinks` for the event; None for one that ended without."""
    rows = connection.execute(
        sa.select(deliveries.c.sink, deliveries.c.state, attempts.c.receipt)
        .outerjoin(
            attempts,
            sa.and_(attempts.c.delivery_id == deliveries.c.id, attempts.c.outcome == "accepted"),
        )
        .where(deliveries.c.event_id == event_id, deliveries.c.sink.in_(sinks))
        .order_by(attempts.c.number)
    )
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(sinks)
    for row in rows:
        if row.receipt and row.state == DeliveryState.DELIVERED:
            found[row.sink] = json.loads(row.receipt)
    return found


def hopeless(connection: sa.Connection, claimed: Sequence[Claimed], budget: int) -> list[Claimed]:
    """Those that have no attempt left of `budget`, and whose last one ended with its worker: who knows why."""
    spent = {each.id: each for each in claimed if each.spent >= budget}
    if not spent:
        return []
    lapsed = connection.execute(
        sa.select(attempts.c.delivery_id, attempts.c.number).where(
            bulk.among(connection, attempts.c.delivery_id, sorted(spent)), attempts.c.outcome == "lapsed"
        )
    )
    return [spent[row.delivery_id] for row in lapsed if row.number == spent[row.delivery_id].number - 1]


def both(tokens: Collection[str]) -> list[str]:
    """These claims, whether they have a place or are in hand: which of the two, the owner need not know for certain."""
    return [form for token in sorted(tokens) for form in (token, token + IN_HAND)]


def renew(connection: sa.Connection, tokens: Collection[str], until: float) -> int:
    """Push back the expiry of claims that are still being worked on. Returns how many are still ours."""
    result = connection.execute(
        sa.update(deliveries)
        .where(
            deliveries.c.state == sa.literal_column(f"'{DeliveryState.SENDING}'"), deliveries.c.claim.in_(both(tokens))
        )
        .values(claim_until=until)
    )
    return result.rowcount


def take_places(connection: sa.Connection, begun: Mapping[str, str], now: float) -> None:
    """What was in hand, delivery → claim, has been begun in places that the same transaction settles."""
    for token, ids in _by_token(begun).items():
        connection.execute(
            sa.update(deliveries)
            .where(bulk.among(connection, deliveries.c.id, ids), deliveries.c.claim == token + IN_HAND)
            .values(claim=token, updated_at=now)
        )


def hand_back(connection: sa.Connection, unbegun: Mapping[str, str], now: float) -> None:
    """What was in hand, delivery → claim, and was never begun, is due as before: this was no attempt."""
    for token, ids in _by_token(unbegun).items():
        connection.execute(
            sa.update(deliveries)
            .where(
                bulk.among(connection, deliveries.c.id, ids),
                deliveries.c.claim.in_(both([token])),
                deliveries.c.state.in_(sources(DeliveryMove.HAND_BACK)),
            )
            .values(handed_back(now))
        )


def hand_back_strays(connection: sa.Connection, owner: str, known: Collection[str], now: float) -> int:
    """What `owner`, which lives, has claimed without hearing of it is due as before. Returns how many there were.

    `known`: the claims that it works on. A stray has never begun, and would hold its place until it lapses.
    """
    result = connection.execute(
        sa.update(deliveries)
        .where(
            deliveries.c.state == sa.literal_column(f"'{DeliveryState.SENDING}'"),
            owned_by(owner),
            deliveries.c.claim.not_in(both(known)),
        )
        .values(handed_back(now))
    )
    return result.rowcount


def owned_by(owner: str) -> sa.ColumnElement[bool]:
    """The claims of a worker process."""
    prefix = owner.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "/%"
    return deliveries.c.claim.like(prefix, escape="\\")


def handed_back(now: float) -> dict[str, Any]:
    """The columns of a delivery that was claimed and not begun: its claim was no attempt."""
    return {
        "state": target(DeliveryMove.HAND_BACK),
        "claim": "",
        "claim_until": None,
        "attempts": deliveries.c.attempts - 1,
        "updated_at": now,
    }


def _by_token(claims: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for delivery in sorted(claims):
        grouped.setdefault(claims[delivery], []).append(delivery)
    return grouped


def has_due(connection: sa.Connection, sink: str, now: float) -> bool:
    """Whether `sink` has something that a worker could send now (a parked lane's deliveries don't count)."""
    closed = lanes.not_closed(connection, sink)
    if any(lane.paused for lane in closed):
        return False
    parked = {lane.lane for lane in closed if lane.until > now}
    return fair_queue.any_due(connection, sink, parked, now)
