"""Claims: which worker process sends a delivery, and until when no other does. Sends nothing.

A claim is four columns of a delivery in state `sending`. `claim_owner` names a worker process; `claim_number` is the
transaction of that process which made it; `claim_until` is when it lapses; `prefetched` says that it has no slot yet.

Making      One transaction claims due deliveries, oldest first, past the lanes that are shut (fair_queue.py). The slots
            of a sink are its `concurrency`, over all workers: a claim takes one unless it is prefetched. That
            transaction holds the sink's lock, so it sends its worker no bodies: while a host that has vanished is sent
            a large answer its transaction stays open. Another one loads them (claimed.py).
Ownership   What changes a claimed delivery names its owner and number, so a process whose claim has lapsed changes
            nothing. Its attempt is recorded all the same.
Renewal     Until the sends have ended, their owner moves `claim_until` on, for the numbers that it knows.
Lapse       A claim that nobody renews runs out. The clock queues the delivery again, with a `lapsed` attempt, for its
            request may have arrived; that spends one of its attempts (recovery.py).
Prefetch    A prefetched delivery starts in the slot that another send of its owner frees, before the ledger knows. The
            transaction that settles the other gives it the slot (`take_slots`). Only what was never tried is
            prefetched; when it lapses that spends nothing, for it had hardly started.
Hand-over   A deliverer that has nothing to do offers to start what is new. A dispatcher of the same worker that takes
            the offer inserts deliveries as its claim (creation.py), prefetched, under the number in the offer, and
            after its COMMIT hands their ids on. They are started when they are read, which tells whether they still are
            that claim's and their lane is open (claimed.py). What is not handed on within seconds, or may not be sent,
            is unknown; what was handed on to a process that died before it heard of it, the next one hands back.
Hand back   A prefetched delivery that never started is queued as if it had never been claimed (`hand_back`).
Unknown     A process that lost the reply to its COMMIT may own claims that it does not know. It never starts them nor
            renews them, and queues them again as soon as the ledger answers (`release_unknown`). Each try of the
            transaction has a number of its own, so what an earlier one committed is not taken for the last one's.
Death       Who finds an owner dead releases its claims at once: those that were prefetched and, by its journal, never
            started are handed back, all others lapse (recovery.py).
Poison      A delivery whose last attempt was spent by a lapse may be what kills workers: once claimed again, it is dead
            and not sent (attempts.py).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from receiver.domain.breaker import shut_since
from receiver.domain.delivery import DeliveryMove, state_after, states_before
from receiver.ledger import bulk
from receiver.ledger.deliveries import fair_queue, lanes
from receiver.ledger.deliveries.claimed import SENDING, UNCLAIMED, Claimed, load
from receiver.ledger.deliveries.fair_queue import Rotation
from receiver.ledger.schema import deliveries, events

# Seconds after which a claim that nobody renews lapses: how long a killed worker's deliveries wait at the most.
CLAIM = 15.0
# Bytes of bodies that one claim takes at the most (but always one delivery): 256 bodies of 16 MiB fill no memory.
CLAIM_BYTES = 16 << 20
# Of the slots of a sink with many lanes, and of those that one claim may take, one in so many goes to probes; but one
# always.
PROBES = 4


class _Statements:
    """The statements of each claim, built once: that costs more than to run them. Their parameters begin with b_."""

    def __init__(self, *, postgresql: bool) -> None:
        self._postgresql = postgresql
        it = deliveries.c
        self.oldest = self.oldest_that(sa.true())
        self.claim = (
            sa.update(deliveries)
            .where(bulk.among_given(postgresql, it.id, "b_ids"))
            .values(
                state=state_after(DeliveryMove.CLAIM),
                attempts=it.attempts + 1,
                updated_at=sa.bindparam("b_now"),
                prefetched=bulk.among_given(postgresql, it.id, "b_ahead"),
                claim_owner=sa.bindparam("b_owner"),
                claim_number=sa.bindparam("b_number"),
                claim_until=sa.bindparam("b_until"),
            )
        )

    def oldest_that(self, condition: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """Return the query that locks the oldest deliveries that are due and meet `condition`: id, attempts, size."""
        it = deliveries.c
        due = fair_queue.due(sa.bindparam("b_sink", type_=sa.Text()), sa.bindparam("b_now", type_=sa.Double()))
        found = sa.select(it.id, it.event_id, it.due_at, it.attempts).where(due, condition)
        found = found.order_by(it.due_at).limit(sa.bindparam("b_limit", type_=sa.Integer()))
        locked = found.with_for_update(skip_locked=True).cte("due")
        if self._postgresql:
            locked = locked.prefix_with("MATERIALIZED")
        query = sa.select(locked.c.id, locked.c.attempts, sa.func.length(events.c.body))
        return query.join(events, events.c.id == locked.c.event_id).order_by(locked.c.due_at)


@functools.cache
def _statements(postgresql: bool) -> _Statements:
    return _Statements(postgresql=postgresql)


class Claims(list[Claimed]):
    """What one claim has taken. `all_due`: nothing else was due then, as far as that is known."""

    all_due = False


def claim(
    connection: sa.Connection,
    sink: str,
    limit: int,
    owner: str,
    claim_number: int,
    now: float,
    seconds: float,
    *,
    concurrency: int | None = None,
    lane_limit: int | None = None,
    rotation: Rotation | None = None,
    prefetch: int = 0,
) -> Claims:
    """Claim up to `limit` due deliveries for `sink`, oldest first, and up to `prefetch` more without a slot.

    `seconds`: until the claim lapses. `concurrency`: the sink's slots, over all workers; None is no limit.
    `lane_limit`: how many of one lane, for a sink that has many, which takes them by their `rotation`. Prefetches only
    what stands next in the queue and was never tried, and nothing at all when `limit` asks for slots and none is free,
    or when a breaker is not closed. What it costs does not depend on how much is queued.
    """
    wanted = limit
    if concurrency is not None:
        limit = min(limit, concurrency - _slots_taken(connection, sink))
        if limit <= 0 and not prefetch:
            return Claims()
    own = lanes.find(connection, sink)
    if own is not None and own.paused:
        return Claims()

    made = {"b_owner": owner, "b_number": claim_number, "b_until": now + seconds}
    making = _Making(connection, sink, made, now)
    ids: list[str] = []
    all_due = False
    probes: dict[str, float] = {}
    if lane_limit is not None and limit > 0:
        ids, probes = making.of_many_lanes(limit, concurrency or limit, lane_limit, rotation or Rotation())
    elif lane_limit is None and (own is None or own.breaker == "closed"):
        ahead = prefetch if limit > 0 or not wanted else 0
        ids, all_due = making.take(None, max(limit, 0), ahead)
    elif own is not None and limit > 0 and own.until <= now:
        probes = making.probe(sink)
        ids = list(probes)
    claimed = Claims(load(connection, ids, probes, now) if ids else [])
    claimed.all_due = all_due
    return claimed


def _slots_taken(connection: sa.Connection, sink: str) -> int:
    """Count the sink's slots that are taken. Until the transaction ends no other worker claims for it."""
    if connection.dialect.name == "postgresql":  # on SQLite there is one writer at a time anyway
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"runhook claim {sink}"))))
    taken = sa.select(sa.func.count()).where(SENDING, deliveries.c.sink == sink, deliveries.c.prefetched.is_(False))
    return connection.execute(taken).scalar_one()


class _Taken(NamedTuple):
    """Ids of deliveries, and whether nothing else was due under the same condition."""

    ids: list[str]
    all_due: bool


@dataclass(frozen=True, slots=True)
class _Making:
    """What all steps of one claim share. `claim`: its owner, number and end, as the statement names them."""

    connection: sa.Connection
    sink: str
    claim: Mapping[str, Any]
    now: float

    def of_many_lanes(
        self, limit: int, places: int, lane_limit: int, rotation: Rotation
    ) -> tuple[list[str], dict[str, float]]:
        """Claim for a sink with many lanes and `places` in all. Returns all ids, and the probes as `probe` does."""
        claimed = Counter(
            self.connection.execute(
                sa.select(deliveries.c.lane).where(SENDING, deliveries.c.sink == self.sink)
            ).scalars()
        )
        chosen, shut = fair_queue.choose(
            self.connection,
            self.sink,
            limit,
            self.now,
            places=places,
            lane_limit=lane_limit,
            claimed=claimed,
            rotation=rotation,
        )
        ids = self.take(bulk.among(self.connection, deliveries.c.id, chosen), limit).ids if chosen else []
        probes: dict[str, float] = {}
        # A lane that is shut gets no slot that another could use, and of the others few: what it is sent may hang.
        hanging = lanes.count_probing(self.connection, claimed) if shut else 0
        most = min(max(1, limit // PROBES), max(1, places // PROBES) - hanging)
        for waiting in shut[: max(0, most)]:
            if len(ids) + len(probes) < limit:
                probes |= self.probe(waiting.lane)
        return [*ids, *probes], probes

    def probe(self, lane: str) -> dict[str, float]:
        """Claim the one delivery that finds out whether a shut lane is open again. Returns its id, with since when the
        lane counts as shut."""
        before = lanes.begin_probe(self.connection, lane, self.now)
        found = self.take(fair_queue.in_lane(self.sink, lane), 1).ids if before else []
        if before and not found:
            lanes.end_probe(self.connection, before, self.now)
        return dict.fromkeys(found, shut_since(before, self.now)) if before else {}

    def take(self, condition: sa.ColumnElement[bool] | None, slots: int, prefetch: int = 0) -> _Taken:
        """Claim the oldest that are due and meet `condition`, if any: so many for `slots`, and the untried of the next
        `prefetch`.

        The rows are found and locked before anything is joined to them: no plan reads more of the queue than that.
        """
        statements = _statements(self.connection.dialect.name == "postgresql")
        query = statements.oldest if condition is None else statements.oldest_that(condition)
        due = {"b_sink": self.sink, "b_now": self.now, "b_limit": slots + prefetch}
        taken: list[str] = []
        ahead: list[str] = []
        total = 0
        rows = self.connection.execute(query, due).all()
        for place, (delivery, tried, length) in enumerate(rows):
            if place >= slots and tried:
                continue
            total += length
            if taken and total > CLAIM_BYTES:
                break
            taken.append(delivery)
            if place >= slots:
                ahead.append(delivery)
        if taken:
            claim = {"b_ids": taken, "b_ahead": ahead, "b_now": self.now, **self.claim}
            self.connection.execute(statements.claim, claim)
        return _Taken(taken, len(taken) == len(rows) < slots + prefetch)


def renew(connection: sa.Connection, owner: str, numbers: Collection[int], until: float) -> int:
    """Move the expiry of the owner's claims of these numbers to `until`. Returns how many deliveries it still has."""
    changed = sa.update(deliveries).where(SENDING, _of(owner, numbers)).values(claim_until=until)
    return connection.execute(changed).rowcount


def take_slots(connection: sa.Connection, owner: str, started: Mapping[str, int], now: float) -> None:
    """Give prefetched deliveries that have started, id → claim number, the slots that the same transaction frees."""
    _change(connection, owner, started, deliveries.c.prefetched, {"prefetched": False, "updated_at": now})


def hand_back(connection: sa.Connection, owner: str, unstarted: Mapping[str, int], now: float) -> None:
    """Queue prefetched deliveries that never started, id → claim number. What is not the owner's any more is left."""
    _change(
        connection, owner, unstarted, deliveries.c.state.in_(states_before(DeliveryMove.HAND_BACK)), handed_back(now)
    )


def release_unknown(connection: sa.Connection, owner: str, known: Collection[int], now: float) -> int:
    """Queue what `owner`, which lives, has claimed without knowing of it. Returns how many there were.

    `known`: the numbers of the claims that it works on.
    """
    unknown = sa.and_(SENDING, deliveries.c.claim_owner == owner, deliveries.c.claim_number.not_in(sorted(known)))
    return connection.execute(sa.update(deliveries).where(unknown).values(handed_back(now))).rowcount


def handed_back(now: float) -> dict[str, Any]:
    """The columns of a delivery that was claimed and never started: its claim was no attempt."""
    return {
        "state": state_after(DeliveryMove.HAND_BACK),
        "attempts": deliveries.c.attempts - 1,
        "updated_at": now,
        **UNCLAIMED,
    }


def _of(owner: str, numbers: Collection[int]) -> sa.ColumnElement[bool]:
    return sa.and_(deliveries.c.claim_owner == owner, deliveries.c.claim_number.in_(sorted(numbers)))


def _change(
    connection: sa.Connection,
    owner: str,
    claimed: Mapping[str, int],
    condition: sa.ColumnElement[bool],
    values: Mapping[str, Any],
) -> None:
    ids: dict[int, list[str]] = {}
    for delivery in sorted(claimed):
        ids.setdefault(claimed[delivery], []).append(delivery)
    for number, of_claim in ids.items():
        mine = sa.and_(bulk.among(connection, deliveries.c.id, of_claim), _of(owner, [number]))
        connection.execute(sa.update(deliveries).where(mine, condition).values(values))


def sinks_due(
    connection: sa.Connection, sinks: Sequence[str], now: float, rotations: Mapping[str, Rotation]
) -> list[str]:
    """Return those of `sinks` that have something that a worker could send now. `rotations`: see `has_due`."""
    if not fair_queue.anything_queued(connection):
        return []
    return [sink for sink in sinks if has_due(connection, sink, now, rotations.get(sink))]


def has_due(connection: sa.Connection, sink: str, now: float, rotation: Rotation | None = None) -> bool:
    """Whether `sink` has something that a worker could send now; what waits behind an open breaker does not count.

    `rotation`: of a sink that has many lanes.
    """
    own = lanes.find(connection, sink)
    if own is not None and (own.paused or (own.breaker != "closed" and own.until > now)):
        return False
    if rotation is not None:
        return fair_queue.any_due(connection, sink, now, rotation)
    oldest = sa.select(deliveries.c.id).where(fair_queue.due(sink, now)).order_by(deliveries.c.due_at).limit(1)
    return connection.execute(oldest).first() is not None
