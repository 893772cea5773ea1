"""Deliveries in the ledger: claims, what became of them, and what the clock repairs. Sends nothing.

A claim is "<owner>/<n>" with an expiry, renewed while a send is under way. Each UPDATE says the claim that it
believes in, so that a worker that overslept its claim changes nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from receiver.ledger import bulk
from receiver.ledger import lanes as lane_gates
from receiver.ledger.schema import attempts, deliveries, events, runs
from receiver.states import ENDED, Move, State, sources, target

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


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one attempt. `move` is ACCEPT, DEFER or DIE; `outcome` is the word for the attempts table."""

    id: str
    number: int
    move: Move
    outcome: str
    reason: str
    started_at: float
    ended_at: float
    due_at: float = 0.0
    spends: bool = True
    receipt: Mapping[str, Any] | None = None
    retry_after: float | None = None


def claim(
    connection: sa.Connection,
    sink: str,
    limit: int,
    token: str,
    now: float,
    seconds: float,
    concurrency: int | None = None,
    lane_limit: int | None = None,
) -> tuple[list[Claimed], str]:
    """Claim up to `limit` due deliveries for `sink`, oldest first. Returns them, and the lane that they probe or "".

    `concurrency`: how many of the sink's may be claimed at once, over all workers; None is no limit. `lane_limit`: how
    many of one lane, and needs `concurrency`.
    """
    if concurrency is not None:
        limit = min(limit, concurrency - _claimed_now(connection, sink))
        if limit <= 0:
            return [], ""
    closed = lane_gates.not_closed(connection, sink)
    if any(lane.paused for lane in closed):
        return [], ""
    condition = deliveries.c.lane.not_in([lane.lane for lane in closed]) if closed else sa.true()
    if lane_limit is None:
        ids = _take(connection, sink, condition, limit, token, now, seconds)
    else:
        ids = _take_by_lane(connection, sink, condition, limit, lane_limit, token, now, seconds)
    probes: dict[str, str] = {}  # delivery → lane
    for lane in closed:
        # A sink with one lane has nothing else to send then; one with many has, and probes beside it.
        if len(ids) >= limit or (lane_limit is None and ids):
            break
        if lane.until <= now and lane_gates.begin_probe(connection, lane.lane, now):
            found = _take(connection, sink, deliveries.c.lane == lane.lane, 1, token, now, seconds)
            if not found:
                lane_gates.end_probe(connection, lane, now)
            probes.update(dict.fromkeys(found, lane.lane))
            ids = [*ids, *found]
    return (_load(connection, ids, probes) if ids else []), next(iter(probes.values()), "")


def _claimed_now(connection: sa.Connection, sink: str) -> int:
    """How many of the sink's deliveries are claimed. Until the transaction ends no other worker claims for it."""
    if connection.dialect.name == "postgresql":  # on SQLite there is one writer at a time anyway
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"runhook claim {sink}"))))
    claimed = sa.select(sa.func.count()).where(
        deliveries.c.state == sa.literal_column(f"'{State.SENDING}'"), deliveries.c.sink == sink
    )
    return connection.execute(claimed).scalar_one()


def _take_by_lane(
    connection: sa.Connection,
    sink: str,
    condition: sa.ColumnElement[bool],
    limit: int,
    lane_limit: int,
    token: str,
    now: float,
    seconds: float,
) -> list[str]:
    """As `_take`, with at most `lane_limit` claimed of one lane: each round takes from those that have room."""
    busy = connection.execute(
        sa.select(deliveries.c.lane).where(
            deliveries.c.state == sa.literal_column(f"'{State.SENDING}'"), deliveries.c.sink == sink
        )
    )
    claimed = Counter(busy.scalars())
    taken: list[str] = []
    while len(taken) < limit:
        full = [lane for lane, count in claimed.items() if count >= lane_limit]
        oldest = connection.execute(
            sa.select(deliveries.c.id, deliveries.c.lane)
            .where(_due(sink, now), condition, deliveries.c.lane.not_in(full) if full else sa.true())
            .order_by(deliveries.c.due_at, deliveries.c.id)
            .limit(limit - len(taken))
        ).all()
        chosen = []
        for delivery, lane in oldest:
            if claimed[lane] < lane_limit:
                claimed[lane] += 1
                chosen.append(delivery)
        if not chosen:
            break
        taken += _take(connection, sink, bulk.among(connection, deliveries.c.id, chosen), limit, token, now, seconds)
    return taken


def _due(sink: str, now: float) -> sa.ColumnElement[bool]:
    return sa.and_(
        deliveries.c.sink == sink,
        deliveries.c.state == sa.literal_column(f"'{State.QUEUED}'"),  # literal: the partial index needs it
        deliveries.c.due_at <= now,
    )


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
        .where(_due(sink, now), condition)
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
                state=target(Move.CLAIM),
                claim=token,
                claim_until=now + seconds,
                attempts=deliveries.c.attempts + 1,
                updated_at=now,
            )
        )
    return found


def _load(connection: sa.Connection, ids: Sequence[str], probes: Collection[str]) -> list[Claimed]:
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
        if row.receipt and row.state == State.DELIVERED:
            found[row.sink] = json.loads(row.receipt)
    return found


def renew(connection: sa.Connection, tokens: Collection[str], until: float) -> int:
    """Push back the expiry of claims that are still being worked on. Returns how many are still ours."""
    result = connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.state == sa.literal_column(f"'{State.SENDING}'"), deliveries.c.claim.in_(tokens))
        .values(claim_until=until)
    )
    return result.rowcount


def settle(connection: sa.Connection, token: str, results: Sequence[Settled], worker: str, now: float) -> list[str]:
    """Write down what became of claimed deliveries. Returns the sinks whose held deliveries this released.

    An attempt is recorded even when the claim has lapsed meanwhile; the delivery then stays as its new owner has it.
    """
    rows = [
        {
            "delivery_id": each.id,
            "number": each.number,
            "outcome": each.outcome,
            "reason": each.reason,
            "receipt": json.dumps(each.receipt) if each.receipt is not None else None,
            "retry_after": each.retry_after,
            "started_at": each.started_at,
            "ended_at": each.ended_at,
            "worker": worker,
        }
        for each in sorted(results, key=lambda each: each.id)
    ]
    bulk.insert(connection, attempts, rows, lambda insert: insert.on_conflict_do_nothing(), [attempts.c.number])
    ended: list[str] = []
    accepted = sorted(each.id for each in results if each.move is Move.ACCEPT)
    if accepted:
        ended += _move(connection, accepted, token, Move.ACCEPT, {"reason": ""}, now)
    for each in sorted(results, key=lambda each: each.id):
        if each.move is not Move.ACCEPT:
            values: dict[str, Any] = {"reason": each.reason, "due_at": each.due_at}
            if each.spends:
                values["spent"] = deliveries.c.spent + 1
            moved = _move(connection, [each.id], token, each.move, values, now)
            if each.move is Move.DIE:
                ended += moved
    return _release_held(connection, ended, now) if ended else []


def _move(
    connection: sa.Connection, ids: Sequence[str], token: str, move: Move, values: dict[str, Any], now: float
) -> list[str]:
    statement = (
        sa.update(deliveries)
        .where(
            bulk.among(connection, deliveries.c.id, ids),
            deliveries.c.claim == token,
            deliveries.c.state.in_(sources(move)),
        )
        .values(state=target(move), claim="", claim_until=None, updated_at=now, **values)
        .returning(deliveries.c.id)
    )
    return list(connection.execute(statement).scalars())


def _release_held(connection: sa.Connection, ended: Sequence[str], now: float) -> list[str]:
    """Queue the held deliveries of the same events whose sinks have all ended. Returns their sinks."""
    of_events = sa.select(deliveries.c.event_id).where(bulk.among(connection, deliveries.c.id, ended))
    return release_held(connection, deliveries.c.event_id.in_(of_events), now)


def release_held(connection: sa.Connection, condition: sa.ColumnElement[bool], now: float) -> list[str]:
    """Queue each held delivery that meets `condition` and waits for nothing any more. Returns their sinks."""
    held = connection.execute(
        sa.select(deliveries.c.id, deliveries.c.event_id, deliveries.c.sink, deliveries.c.after)
        .where(deliveries.c.state == sa.literal_column(f"'{State.HELD}'"), condition)
        .order_by(deliveries.c.id)
        .limit(500)
    ).all()
    if not held:
        return []
    open_sinks: dict[str, set[str]] = {}
    for event_id, sink in connection.execute(
        sa.select(deliveries.c.event_id, deliveries.c.sink).where(
            deliveries.c.event_id.in_({row.event_id for row in held}),
            deliveries.c.state.not_in([state.value for state in ENDED]),
        )
    ):
        open_sinks.setdefault(event_id, set()).add(sink)
    ready = [row for row in held if not open_sinks.get(row.event_id, set()) & set(json.loads(row.after))]
    if ready:
        connection.execute(
            sa.update(deliveries)
            .where(deliveries.c.id.in_([row.id for row in ready]), deliveries.c.state == State.HELD)
            .values(state=target(Move.RELEASE), due_at=now, updated_at=now)
        )
    return sorted({row.sink for row in ready})


def has_due(connection: sa.Connection, sink: str, now: float) -> bool:
    """Whether `sink` has something that a worker could send now (a parked lane's deliveries don't count)."""
    closed = lane_gates.not_closed(connection, sink)
    if any(lane.paused for lane in closed):
        return False
    parked = [lane.lane for lane in closed if lane.until > now]
    condition = deliveries.c.lane.not_in(parked) if parked else sa.true()
    queued = sa.select(sa.literal(1)).where(_due(sink, now), condition)
    return connection.execute(queued.limit(1)).first() is not None
