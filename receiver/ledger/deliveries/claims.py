"""Claims: which worker process sends a delivery, and until when no other does. Sends nothing.

A claim is four columns of a delivery in state `sending`. `claim_owner` names a worker process; `claim_number` is the
transaction of that process which made it; `claim_until` is when it lapses; `prefetched` says that it has no slot yet.

Making      One transaction claims due deliveries, oldest first, past the lanes that are shut (fair_queue.py). The slots
            of a sink are its `concurrency`, over all workers: a claim takes one unless it is prefetched. That
            transaction holds the sink's lock, so it sends its worker no bodies: while a host that has vanished is sent
            a large answer its transaction stays open. Another one loads them (claimed.py). On SQLite nobody is sent
            anything, and small bodies come with the claim.
Ownership   What changes a claimed delivery names its owner and number, so a process whose claim has lapsed changes
            nothing. Its attempt is recorded all the same.
Renewal     Until the sends have ended, their owner moves `claim_until` on, for the numbers that it knows.
Lapse       A claim that nobody renews runs out. The clock queues the delivery again, with a `lapsed` attempt, for its
            request may have arrived; that spends one of its attempts (recovery.py).
Prefetch    A prefetched delivery starts in the slot that another send of its owner frees, before the ledger knows. The
            transaction that settles the other gives it the slot (`take_slots`). Only what was never tried is
            prefetched; when it lapses that spends nothing, for it had hardly started.
Hand-over   A deliverer with a free slot and nothing due offers to start what is new. A dispatcher of the same worker
            that takes the offer inserts deliveries as its claim (creation.py), prefetched, under the number in the
            offer, and after its COMMIT hands them on: their ids, and all that is needed to send them if their lane is
            open, as its own transaction reads, they are certainly committed, and small (packed_claims.py). That may be
            sent for a second, unless the deliverer has released claims or met trouble meanwhile. All else it reads from
            the ledger, which tells whether they still are that claim's and their lane is open (claimed.py). What is not
            handed on within seconds, or may not be sent, is unknown; what was handed on to a process that died before
            it heard of it, the next one hands back.
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

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.breaker import Lane, shut_since
from receiver.domain.delivery import DeliveryMove, state_after
from receiver.ledger import dialect
from receiver.ledger.deliveries import fair_queue, lanes
from receiver.ledger.deliveries.claimed import (
    SENDING,
    UNCLAIMED,
    Claimed,
    columns,
    delivery_columns,
    given_claims,
    may_move,
    of_claims,
    to_claimed,
)
from receiver.ledger.deliveries.fair_queue import Rotation
from receiver.ledger.deliveries_by_event import event_of
from receiver.ledger.schema import deliveries, events

# Seconds after which a claim that nobody renews lapses: how long a killed worker's deliveries wait at the most.
CLAIM = 15.0
# Bytes of bodies that one claim takes at the most (but always one delivery): 256 bodies of 16 MiB fill no memory.
CLAIM_BYTES = 16 << 20
# Bytes of a body that SQLite reads with its delivery, so that a claim is all that is asked of it: of all that one claim
# may look at these are no more than CLAIM_BYTES.
AT_ONCE = 16 << 10
# Deliveries that one claim takes at the most: while it does, no other worker claims for its sink, and on SQLite nobody
# writes.
CLAIM_MOST = 1024
# Of the slots of a sink with many lanes, and of those that one claim may take, one in so many goes to probes; but one
# always.
PROBES = 4


def _oldest_that(on_postgresql: bool, condition: sa.ColumnElement[bool], *, by_id: bool = False) -> sa.Select[Any]:
    """Return the query that locks the oldest deliveries that are due and meet `condition`, in no particular order: all
    that their owner is told (`to_claimed`), and the size of each body. `by_id`: the condition names them by their ids.

    The rows are found and locked before anything is joined to them: no plan reads more of the queue than that. SQLite
    has a small body at hand when it tells its size.
    """
    sink = sa.bindparam("b_sink", type_=sa.Text())
    now: sa.BindParameter[float] = sa.bindparam("b_now", type_=sa.Double())
    due = fair_queue.due_by_id(sink, now) if by_id else fair_queue.due(sink, now)
    found = sa.select(*delivery_columns()).where(due, condition)
    found = found.order_by(deliveries.c.due_at).limit(sa.bindparam("b_limit", type_=sa.Integer()))
    locked = found.with_for_update(skip_locked=True).cte("due")
    if on_postgresql:
        locked = locked.prefix_with("MATERIALIZED")
    size: Any = sa.func.length(events.c.body)
    whole = sa.and_(size <= sa.literal_column(str(AT_ONCE)), events.c.completion == sa.literal_column("''"))
    body = sa.cast(sa.null(), sa.LargeBinary()) if on_postgresql else sa.case((whole, events.c.body))
    query = sa.select(*columns(locked.c), size.label("size"), body.label("body"))
    return query.join(events, event_of(locked, on_postgresql=on_postgresql))


_OLDEST: Final = {database: _oldest_that(database == "postgresql", sa.true()) for database in ("postgresql", "sqlite")}
_CLAIM: Final = (
    sa.update(deliveries)
    .where(dialect.among_given(deliveries.c.id, "b_ids"))
    .values(
        state=state_after(DeliveryMove.CLAIM),
        attempts=deliveries.c.attempts + 1,
        updated_at=sa.bindparam("b_now"),
        prefetched=sa.bindparam("b_prefetched"),
        claim_owner=sa.bindparam("b_owner"),
        claim_number=sa.bindparam("b_number"),
        claim_until=sa.bindparam("b_until"),
    )
)
# Until the transaction ends no other worker claims for the sink. On SQLite there is one writer at a time anyway.
_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(hashtext('runhook claim ' || CAST(:b_sink AS TEXT)))")
_SLOTS_TAKEN: Final = sa.select(sa.func.count()).where(
    SENDING, deliveries.c.sink == sa.bindparam("b_sink"), deliveries.c.prefetched.is_(False)
)


class Claims(list[Claimed]):
    """What one claim has taken. `all_due`: nothing else was due then, as far as that is known."""

    def __init__(self, claimed: Iterable[Claimed] = (), *, all_due: bool = False) -> None:
        super().__init__(claimed)
        self.all_due = all_due


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
    has_slots: bool = False,
) -> Claims:
    """Claim up to `limit` due deliveries for `sink`, oldest first, and up to `prefetch` more without a slot.

    `seconds`: until the claim lapses. `concurrency`: the sink's slots, over all workers; None is no limit.
    `lane_limit`: how many of one lane, for a sink that has many, which takes them by their `rotation`. Prefetches only
    what stands next in the queue and was never tried, and nothing at all for an owner that gets no slot and has none
    (`has_slots`), or when a breaker is not closed. What it costs does not depend on how much is queued.
    """
    own, taken, oldest = _look(connection, sink, now, concurrency, 0 if lane_limit else limit + prefetch)
    if concurrency is not None:
        limit = min(limit, concurrency - taken)
        if limit <= 0 and not prefetch:
            return Claims()
    if own is not None and own.paused:
        return Claims()

    finding = _Finding(connection, sink, now)
    found = _NOTHING
    probes: dict[str, float] = {}
    if lane_limit is not None and limit > 0:
        found, probes = finding.in_many_lanes(limit, concurrency or limit, lane_limit, rotation or Rotation())
    elif lane_limit is None and (own is None or own.breaker == "closed"):
        found = _chosen(oldest, max(limit, 0), prefetch if limit > 0 or has_slots else 0)
    elif own is not None and limit > 0 and own.until <= now:
        found, probes = finding.probe(sink)
    if not found.rows:
        return Claims(all_due=found.all_due)
    given = {"b_owner": owner, "b_number": claim_number, "b_until": now + seconds, "b_now": now}
    for prefetched in (False, True):
        if ids := [row.id for row in found.rows if (row.id in found.ahead) is prefetched]:
            connection.execute(_CLAIM, {"b_ids": ids, "b_prefetched": prefetched, **given})
    return Claims(
        (
            to_claimed(row, row.attempts + 1, now, prefetched=row.id in found.ahead, probe=probes.get(row.id))
            for row in found.rows
        ),
        all_due=found.all_due,
    )


def _look(
    connection: sa.Connection, sink: str, now: float, concurrency: int | None, oldest: int
) -> tuple[Lane | None, int, Sequence[Any]]:
    """Return the sink's own lane, how many of its slots are taken, and so many of the oldest that are due, locked."""
    database, taken = connection.dialect.name, 0
    if concurrency is not None:
        if database == "postgresql":
            connection.execute(_LOCK, {"b_sink": sink})
        taken = connection.execute(_SLOTS_TAKEN, {"b_sink": sink}).scalar_one()
    own = lanes.find(connection, sink)
    due = {"b_sink": sink, "b_now": now, "b_limit": oldest}
    return own, taken, connection.execute(_OLDEST[database], due).all() if oldest else []


class _Found(NamedTuple):
    """The rows of deliveries to be claimed, and the ids of those of them without a slot. `all_due`: nothing else was
    due under the same condition."""

    rows: list[Any]
    ahead: Collection[str]
    all_due: bool = False


_NOTHING: Final = _Found([], ())


def _chosen(found: Iterable[Any], slots: int, prefetch: int = 0) -> _Found:
    """Choose from the oldest that are due: so many for `slots`, and the untried of the next `prefetch`."""
    rows = sorted(found, key=attrgetter("due_at"))
    chosen: list[Any] = []
    ahead: set[str] = set()
    total = 0
    for place, row in enumerate(rows[: slots + prefetch]):
        if place >= slots and row.attempts:
            continue
        total += row.size
        if chosen and total > CLAIM_BYTES:
            break
        chosen.append(row)
        if place >= slots:
            ahead.add(row.id)
    return _Found(chosen, ahead, len(chosen) == len(rows) < slots + prefetch)


@dataclass(frozen=True, slots=True)
class _Finding:
    """What all steps share that find what to claim for a sink with many lanes, or with a lane that is shut."""

    connection: sa.Connection
    sink: str
    now: float

    def in_many_lanes(
        self, limit: int, places: int, lane_limit: int, rotation: Rotation
    ) -> tuple[_Found, dict[str, float]]:
        """Find for a sink with many lanes and `places` in all. Returns all, and the probes as `probe` does."""
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
        found = self._oldest(dialect.among(deliveries.c.id, chosen), limit, by_id=True) if chosen else _NOTHING
        rows = list(found.rows)
        probes: dict[str, float] = {}
        # A lane that is shut gets no slot that another could use, and of the others few: what it is sent may hang.
        hanging = lanes.count_probing(self.connection, claimed) if shut else 0
        most = min(max(1, limit // PROBES), max(1, places // PROBES) - hanging)
        for waiting in shut[: max(0, most)]:
            if len(rows) < limit:
                probed, since = self.probe(waiting.lane)
                rows += probed.rows
                probes |= since
        return _Found(rows, ()), probes

    def probe(self, lane: str) -> tuple[_Found, dict[str, float]]:
        """Find the one delivery that finds out whether a shut lane is open again. Returns it too by its id, with since
        when the lane counts as shut."""
        before = lanes.begin_probe(self.connection, lane, self.now)
        found = self._oldest(fair_queue.in_lane(self.sink, lane), 1) if before else _NOTHING
        if before and not found.rows:
            lanes.end_probe(self.connection, before, self.now)
        return found, {row.id: shut_since(before, self.now) for row in found.rows} if before else {}

    def _oldest(self, condition: sa.ColumnElement[bool], limit: int, *, by_id: bool = False) -> _Found:
        query = _oldest_that(self.connection.dialect.name == "postgresql", condition, by_id=by_id)
        due = {"b_sink": self.sink, "b_now": self.now, "b_limit": limit}
        return _chosen(self.connection.execute(query, due).all(), limit)._replace(all_due=False)


def renew(connection: sa.Connection, owner: str, numbers: Collection[int], until: float) -> int:
    """Move the expiry of the owner's claims of these numbers to `until`. Returns how many deliveries it still has."""
    changed = sa.update(deliveries).where(SENDING, _of(owner, numbers)).values(claim_until=until)
    return connection.execute(changed).rowcount


def take_slots(connection: sa.Connection, owner: str, started: Mapping[str, int]) -> None:
    """Give prefetched deliveries that have started, id → claim number, the slots that the same transaction frees. What
    is not the owner's any more is left."""
    if started:
        connection.execute(_TAKE_SLOTS, given_claims(owner, [*started.items()]))


def hand_back(connection: sa.Connection, owner: str, unstarted: Mapping[str, int], now: float) -> None:
    """Queue prefetched deliveries that never started, id → claim number. What is not the owner's any more is left."""
    if unstarted:
        connection.execute(_HAND_BACK, {**given_claims(owner, [*unstarted.items()]), "b_now": now})


def release_unknown(connection: sa.Connection, owner: str, known: Collection[int], now: float) -> int:
    """Queue what `owner`, which lives, has claimed without knowing of it. Returns how many there were.

    `known`: the numbers of the claims that it works on.
    """
    unknown = sa.and_(SENDING, deliveries.c.claim_owner == owner, deliveries.c.claim_number.not_in(sorted(known)))
    return connection.execute(sa.update(deliveries).where(unknown).values(handed_back(now))).rowcount


def handed_back(now: Any) -> dict[str, Any]:
    """The columns of a delivery that was claimed and never started: its claim was no attempt."""
    return {
        "state": state_after(DeliveryMove.HAND_BACK),
        "attempts": deliveries.c.attempts - 1,
        "updated_at": now,
        **UNCLAIMED,
    }


def _of(owner: str, numbers: Collection[int]) -> sa.ColumnElement[bool]:
    return sa.and_(deliveries.c.claim_owner == owner, deliveries.c.claim_number.in_(sorted(numbers)))


# It moves no delivery in any list, so it changes no column that has an index: SQLite writes the row alone, and so does
# PostgreSQL where its page has room.
_TAKE_SLOTS: Final = sa.update(deliveries).where(of_claims(), deliveries.c.prefetched).values(prefetched=False)
_HAND_BACK: Final = (
    sa.update(deliveries)
    .where(of_claims(), may_move(DeliveryMove.HAND_BACK))
    .values(handed_back(sa.bindparam("b_now")))
)


def sinks_due(
    connection: sa.Connection, sinks: Sequence[str], now: float, rotations: Mapping[str, Rotation]
) -> list[str]:
    """Return those of `sinks` that have something that a worker could send now. `rotations`: see `has_due`."""
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
