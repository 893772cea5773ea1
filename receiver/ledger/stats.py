"""The ledger's state as numbers, for /metrics: by sink, never by a value that a request can invent. And what
routes have made.

Read every few seconds, so nothing here reads more of a long backlog than of a short one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import ENDED, DeliveryState
from receiver.domain.event import ERASED, UNEVALUATED
from receiver.ledger import watches
from receiver.ledger.database import timeouts
from receiver.ledger.database.database_clock import database_now
from receiver.ledger.database.dialect import contains_exactly, each_value
from receiver.ledger.database.timeouts import Cancelled
from receiver.ledger.deliveries import lanes
from receiver.ledger.deliveries.lanes import WorstLane
from receiver.ledger.lists.filters import in_states
from receiver.ledger.lists.words import Coverage, coverage
from receiver.ledger.schema import attempts, deliveries, events, in_state
from receiver.ledger.watches import Watch

# Delivered and cancelled ones are left out: there may be millions, and they need no action.
COUNTED = (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.WAITING, DeliveryState.DEAD)
# Up to how many deliveries of a sink in one state are counted; of more it is known that there are as many.
COUNT_LIMIT: Final = 10_000


# Events of which the deliveries are counted by route, the newest.
NEWEST: Final = 10_000
# Characters of a response in a problem.
RESPONSE: Final = 200
# Queued deliveries from which on it is estimated when they will be sent.
BACKLOG: Final = 100


@dataclass(frozen=True, slots=True)
class Gauges:
    """`counts`: by (sink, state), up to COUNT_LIMIT. `oldest_due`: since when each sink's oldest delivery waits beyond
    its time, seconds since the epoch. `lanes`: by sink, what is paused or shut. `newest_event`: when the ledger last
    recorded an event, or None. `watches`: walks of Skyvern's list. `cancelled`: operations that the database
    cancels for time again and again. `search`: which runs it finds.
    `read_at`: by the database's clock, as all of these times."""

    counts: dict[tuple[str, str], int]
    oldest_due: dict[str, float]
    lanes: dict[str, WorstLane]
    newest_event: float | None
    watches: list[Watch] = field(default_factory=list)
    cancelled: list[Cancelled] = field(default_factory=list)
    search: Coverage = field(default_factory=Coverage)
    read_at: float = field(default=0.0, compare=False)


def counts(connection: sa.Connection, most: int = COUNT_LIMIT) -> dict[tuple[str, str], int]:
    """Count the deliveries of each sink in each of the states COUNTED, up to `most`."""
    it = deliveries.c
    some = sa.select(it.sink).where(in_state(DeliveryState.SENDING)).limit(most).subquery()
    counted = connection.execute(sa.select(some.c.sink, sa.func.count()).group_by(some.c.sink))
    found = {(sink, str(DeliveryState.SENDING)): count for sink, count in counted}
    for sink, state in _by_sink(connection):
        # In the order of the index: else PostgreSQL may gather all of its entries before it counts the first.
        rows = sa.select(it.due_at).where(in_state(state), it.sink == sink).order_by(it.due_at).limit(most)
        count = connection.execute(sa.select(sa.func.count()).select_from(rows.subquery())).scalar_one()
        found[sink, str(state)] = count
    return found


def orphaned(counts: Mapping[tuple[str, str], int], sinks: Collection[str]) -> dict[str, dict[str, int]]:
    """Return by sink and state the pending deliveries of removed sinks, which no worker sends. `sinks`: in the config.

    Dead ones do not count: they are listed as dead letters.
    """
    found: dict[str, dict[str, int]] = {}
    for (sink, state), count in sorted(counts.items()):
        if sink not in sinks and DeliveryState(state) not in ENDED:
            found.setdefault(sink, {})[str(state)] = count
    return found


def oldest_due(
    connection: sa.Connection, counted: Iterable[tuple[str, str]], now: float, most: int = COUNT_LIMIT
) -> dict[str, float]:
    """Return since when the oldest delivery of each sink waits beyond its time: queued, held for another sink, waiting
    though its time has come, or under a claim that ran out. `counted`: sinks and states from `counts`."""
    it = deliveries.c
    found: dict[str, float] = {}
    for sink, state in counted:
        if state not in (DeliveryState.HELD, DeliveryState.QUEUED, DeliveryState.WAITING):
            continue
        oldest = sa.select(it.due_at).where(in_state(state), it.sink == sink).order_by(it.due_at).limit(1)
        if (due := connection.execute(oldest).scalar()) is not None and due <= now:
            found[sink] = min(due, found.get(sink, due))
    lapsed = sa.select(it.sink, it.claim_until).where(in_state(DeliveryState.SENDING), it.claim_until <= now)
    for sink, until in connection.execute(lapsed.order_by(it.claim_until).limit(most)):
        found[sink] = min(until, found.get(sink, until))
    return found


def read(connection: sa.Connection, most: int = COUNT_LIMIT) -> Gauges:
    """Read all of them, counting up to `most` deliveries of a sink in one state."""
    now, counted = database_now(connection), counts(connection, most=most)
    return Gauges(
        counted,
        oldest_due(connection, counted, now, most),
        lanes.worst_lanes(connection),
        connection.execute(sa.select(sa.func.max(events.c.recorded_at))).scalar(),
        watches.list_watches(connection),
        timeouts.repeated(connection, now),
        coverage(connection),
        now,
    )


class DeliveryPace(NamedTuple):
    """`rate`: deliveries per second that a sink accepts. `drained_in`: seconds until the queued ones are sent at this
    rate; a minimum if not all were counted. None if few wait."""

    rate: float
    drained_in: float | None


def paces(connection: sa.Connection, counts: Mapping[tuple[str, str], int], now: float) -> dict[str, DeliveryPace]:
    """Return the pace of each sink that accepted something in the last minute, or among the NEWEST deliveries of all.

    `counts`: as those of the gauges.
    """
    it = deliveries.c
    accepted = sa.and_(it.updated_at > now - 60, it.state == DeliveryState.DELIVERED)
    newest = sa.select(it.sink, it.updated_at).where(accepted).order_by(it.updated_at.desc()).limit(NEWEST).subquery()
    query = sa.select(newest.c.sink, sa.func.count(), sa.func.min(newest.c.updated_at)).group_by(newest.c.sink)
    rows = connection.execute(query).all()
    began = now - 60 if sum(count for _, count, _ in rows) < NEWEST else min(at for *_, at in rows)
    queued = {sink: count for (sink, state), count in counts.items() if state == DeliveryState.QUEUED}
    rates = {sink: count / max(now - began, 1.0) for sink, count, _ in rows}
    waiting = {sink: queued[sink] for sink in rates if queued.get(sink, 0) >= BACKLOG}
    return {
        sink: DeliveryPace(round(rate, 3), round(waiting[sink] / rate, 1) if sink in waiting else None)
        for sink, rate in rates.items()
    }


def responses(connection: sa.Connection, sinks: Collection[str]) -> dict[str, str]:
    """Return how the response of the newest attempt of these sinks begins, of the deliveries that changed last: in one
    line, without control characters. A sink whose newest attempt got no response is left out."""
    of, it = deliveries.c, attempts.c
    newest = sa.select(of.id, of.sink, of.attempts, of.updated_at).order_by(of.updated_at.desc(), of.id.desc())
    changed = newest.limit(NEWEST // 10).subquery()
    tried = sa.and_(it.delivery_id == changed.c.id, it.number == changed.c.attempts)
    query = sa.select(changed.c.sink, it.response).join(attempts, tried).where(changed.c.sink.in_(sorted(sinks)))
    rows = connection.execute(query.order_by(it.ended_at)) if sinks else ()
    last = {sink: " ".join(response.split())[:RESPONSE] for sink, response in rows}  # the newest last
    return {sink: "".join(map(_printable, response)) for sink, response in last.items() if response}


def _printable(character: str) -> str:
    """Return the character, or a mark for one that would change how the text around it is shown."""
    return character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"


def waiting_runs(connection: sa.Connection, sinks: Iterable[str]) -> dict[str, int]:
    """Count by sink the runs whose deliveries have not ended, of up to COUNT_LIMIT deliveries in each state."""
    it, found = deliveries.c, dict[str, int]()
    for sink in sinks:
        of_sink = (
            sa.select(it.source, it.run_id).where(in_state(state), it.sink == sink).limit(COUNT_LIMIT).subquery()
            for state in COUNTED
            if state is not DeliveryState.DEAD
        )
        runs = sa.union(*map(sa.select, of_sink)).subquery()
        found[sink] = connection.execute(sa.select(sa.func.count()).select_from(runs)).scalar_one()
    return found


class Newest(NamedTuple):
    """What the newest NEWEST / 10 events and deliveries show. `webhook_at`: when the newest event by webhook was
    recorded. `troubled`: events with a problem, and the id and problem of the newest of them. `unrouted`: the same of
    events for which a rule could not be evaluated, until they are routed again. `refused`: by sink, how many
    deliveries in a row it refused for good until now, and why it refused the last one. `sent_at`: by sink, when it
    accepted the last one. `died`: sinks with a new dead letter. `files_left_out`: by sink, deliveries with files
    over a limit of its options."""

    webhook_at: float | None = None
    troubled: int = 0
    example: tuple[str, str] = ("", "")
    unrouted: int = 0
    unrouted_example: tuple[str, str] = ("", "")
    refused: Mapping[str, tuple[int, str]] = MappingProxyType({})
    sent_at: Mapping[str, float] = MappingProxyType({})
    died: frozenset[str] = frozenset()
    files_left_out: Mapping[str, int] = MappingProxyType({})


def newest(connection: sa.Connection, since: float) -> Newest:
    """Return what the newest events and deliveries show; problems only of those recorded or changed after `since`."""
    it, most = events.c, NEWEST // 10
    webhook_at = None
    troubled, unrouted = list[tuple[str, str]](), list[tuple[str, str]]()
    last = sa.select(it.id, it.via, it.problem, it.recorded_at)
    for event in connection.execute(last.order_by(it.seq.desc()).limit(most)):
        webhook_at = event.recorded_at if webhook_at is None and event.via == "webhook" else webhook_at
        if event.problem in ("", ERASED) or event.recorded_at <= since:
            continue
        some = unrouted if UNEVALUATED in event.problem else troubled  # a reroute clears what it has evaluated
        some.append((event.id, event.problem))
    of, last_one = deliveries.c, attempts.c
    # A delivery that is dead because its attempts or its time ran out was not refused.
    changed = (
        sa.select(of.sink, of.state, of.reason, last_one.outcome, of.updated_at, _LEFT_OUT)
        .outerjoin_from(deliveries, attempts, sa.and_(last_one.delivery_id == of.id, last_one.number == of.attempts))
        .where(of.updated_at > since)
        .order_by(of.updated_at.desc(), of.id.desc())
    )
    refused: dict[str, tuple[int, str]] = {}
    accepted: dict[str, float] = {}
    left_out: Counter[str] = Counter()
    for sink, state, reason, outcome, at, some_left_out in connection.execute(changed.limit(most)):
        if state == DeliveryState.DELIVERED:
            accepted.setdefault(sink, at)
            left_out.update([sink] if some_left_out else ())
        elif state == DeliveryState.DEAD and outcome == "refused" and sink not in accepted:
            count, why = refused.get(sink, (0, reason))
            refused[sink] = count + 1, why
    none = ("", "")
    return Newest(
        *(webhook_at, len(troubled), (*troubled, none)[0], len(unrouted), (*unrouted, none)[0]),
        *(refused, accepted, _died(connection, since), left_out),
    )


def _died(connection: sa.Connection, since: float) -> frozenset[str]:
    """Return the sinks with a dead letter since then, however many deliveries have changed after it."""
    it = deliveries.c
    dead = sa.select(it.sink).where(*in_states(DeliveryState.DEAD), it.updated_at > since)
    last = dead.order_by(it.updated_at.desc(), it.id.desc()).limit(COUNT_LIMIT).subquery()
    return frozenset(connection.execute(sa.select(last.c.sink).distinct()).scalars())


# Whether the receipt's note names a limit of the sink's options, see handlers/mirror.
_LEFT_OUT: Final = sa.and_(*(contains_exactly(attempts.c.receipt, part) for part in (" files are not kept (", "(max_")))


def _by_sink(connection: sa.Connection) -> Iterator[tuple[str, DeliveryState]]:
    """Yield each sink with each COUNTED state of its deliveries except SENDING. Their indexes begin with the sink."""
    for state in COUNTED:
        if state is not DeliveryState.SENDING:
            for sink in connection.execute(each_value(deliveries.c.sink, in_state(state))).scalars().all():
                yield sink, state


class RouteCounts(NamedTuple):
    """`by_route`: by route, deliveries by state. `since`: recorded since then, seconds since the epoch: later than was
    asked for where there are more events than are counted. `unrouted`: events that no route has matched."""

    by_route: dict[str, dict[str, int]]
    since: float
    unrouted: int


def count_routes(connection: sa.Connection, since: float, source: str = "", newest: int = NEWEST) -> RouteCounts:
    """Count the deliveries of the `newest` events, at most, that were recorded since then."""
    it = events.c
    recorded = sa.select(it.id, it.source, it.recorded_at, it.unrouted).where(it.recorded_at >= since)
    some = recorded.order_by(it.recorded_at.desc()).limit(newest).cte("newest")
    of_source = some.c.source == source if source else sa.true()
    measures = sa.func.min(some.c.recorded_at), sa.func.count(), sa.func.count().filter(some.c.unrouted, of_source)
    oldest, number, unrouted = connection.execute(sa.select(*measures)).one()
    rows = connection.execute(
        sa.select(deliveries.c.route, deliveries.c.state, sa.func.count())
        .select_from(some.join(deliveries, deliveries.c.event_id == some.c.id))
        .where(of_source)
        .group_by(deliveries.c.route, deliveries.c.state)
    )
    found: dict[str, dict[str, int]] = {}
    for route, state, count in rows:
        found.setdefault(route, {})[state] = count
    return RouteCounts(found, oldest if number == newest else since, unrouted)
