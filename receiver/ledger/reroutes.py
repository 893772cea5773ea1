"""Read old events to route them again, add their deliveries, and complete them with later data.

Routes are decided by the caller. The newest event comes first: a sink without a delivery of a result gets the last
event that adds to it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.domain.event import Via
from receiver.domain.run import Run, RunKey
from receiver.ledger.database import dialect, many_rows
from receiver.ledger.database.engine import Ledger
from receiver.ledger.deliveries import creation, links, same_result
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.lists import words
from receiver.ledger.lists.filters import Filter, of_events
from receiver.ledger.runs import update_run
from receiver.ledger.schema import deliveries, events, runs
from receiver.ledger.selection import of_named_events

# Maximum events that one query reads, and maximum bytes of their bodies, but always one event.
PAGE, PAGE_BYTES = 200, 8 << 20

_HAS_BODY = sa.func.length(events.c.body) > 0  # the run of the others was erased

# Identifies a result: its run, and the first event with it.
ResultKey = tuple[RunKey, str]


@dataclass(frozen=True, slots=True)
class OldEvent:
    """A recorded event. `newest`: no later event has changed the run's status. `completion`: JSON, or ""."""

    seq: int
    id: str
    source: str
    run_id: str
    via: Via
    disposition: str
    outcome: str
    received_at: float
    body: bytes
    completion: str
    problem: str
    labels: Mapping[str, str]
    newest: bool
    first: str

    @property
    def result(self) -> ResultKey:
        """The result of the event; an event without a run has a separate result."""
        return (self.source, self.run_id), self.first if self.run_id else self.id


def read_back(ledger: Ledger, filters: Filter, before: int | None = None) -> Iterator[list[OldEvent]]:
    """Yield the readable events that match `filters`, the newest first, page by page. Raises LedgerUnavailable.

    `before`: only events with a lower `seq`.
    """
    while True:
        sizes = ledger.read(lambda connection: _sizes(connection, filters, before))  # noqa: B023 - it runs at once
        for chunk in _chunks(sizes):
            yield ledger.read(lambda connection: _load(connection, chunk))  # noqa: B023
        if len(sizes) < PAGE:
            return
        before = sizes[-1][0]


def of_run(connection: sa.Connection, run: RunKey) -> list[OldEvent]:
    """Return the last PAGE readable events of a run, the newest first."""
    mine = sa.select(events.c.seq).where(events.c.source == run[0], events.c.run_id == run[1])
    mine = mine.where(events.c.disposition.not_in(["unreadable", "test"]), _HAS_BODY)
    return _load(connection, connection.execute(mine.order_by(events.c.seq.desc()).limit(PAGE)).scalars().all())


def _sizes(connection: sa.Connection, filters: Filter, before: int | None) -> list[tuple[int, int]]:
    """Return `seq` and body size in bytes of each event of the next page."""
    query = sa.select(events.c.seq, sa.func.length(events.c.body)).where(
        events.c.disposition != "unreadable", _HAS_BODY
    )
    if before is not None:
        query = query.where(events.c.seq < before)
    query = query.where(*of_events(filters), *of_named_events(filters)).order_by(events.c.seq.desc()).limit(PAGE)
    return [(row[0], row[1]) for row in connection.execute(query)]


def _chunks(sizes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    chunk: list[int] = []
    total = 0
    for seq, size in sizes:
        if chunk and total + size > PAGE_BYTES:
            yield chunk
            chunk, total = [], 0
        chunk.append(seq)
        total += size
    if chunk:
        yield chunk


_COLUMNS = ("seq", "id", "source", "run_id", "via", "disposition", "outcome", "received_at", "completion", "problem")


def _load(connection: sa.Connection, places: Collection[int]) -> list[OldEvent]:
    query = (
        sa.select(
            *(events.c[name] for name in _COLUMNS),
            events.c.body,
            runs.c.labels,
            runs.c.event_id.label("newest"),
            sa.func.coalesce(events.c.repeat_of, events.c.id).label("first"),
        )
        .outerjoin(runs, sa.and_(runs.c.source == events.c.source, runs.c.run_id == events.c.run_id))
        .where(events.c.seq.in_(places))
        .order_by(events.c.seq.desc())
    )
    return [
        OldEvent(
            **{name: getattr(row, name) for name in _COLUMNS},
            body=bytes(row.body),
            labels=json.loads(row.labels or "{}"),
            newest=row.newest in (row.id, None),
            first=row.first,
        )
        for row in connection.execute(query)
    ]


def sinks_of(connection: sa.Connection, page: Sequence[OldEvent]) -> dict[ResultKey, set[str]]:
    """Return the sinks with a delivery, in any state, of each result of these events."""
    results = {each.id: each.result for each in page}
    found: dict[ResultKey, set[str]] = {}
    for each in same_result.existing_deliveries(connection, results.keys()):
        found.setdefault(results[each.asked], set()).add(each.sink)
    return found


class Added(NamedTuple):
    """The ids of new deliveries, and the sinks that have due deliveries now."""

    made: list[str]
    sinks: set[str]


def add(connection: sa.Connection, added: Sequence[AddedDelivery], now: float, *, to_newest: bool = False) -> Added:
    """Create these deliveries, due now or held, as `creation.give` does.

    `to_newest`: replace an event by the last update of its result.
    """
    ids = sorted({each.event_id for each in added})
    if to_newest:  # locked first: an update that is recorded at this moment is seen then
        updates = same_result.newest_updates(connection, same_result.lock(connection, ids))
        added = [each._replace(event_id=updates.get(each.event_id, each.event_id)) for each in added]
    made = creation.give(connection, added, now)
    due = {each.sink for each in made if not each.after}
    connection.execute(sa.update(events).where(dialect.among(events.c.id, ids)).values(unrouted=False))
    if any(each.after for each in made):
        due.update(links.release_held(connection, ids, now))
    return Added([each.id for each in made], due)


class EventNote(NamedTuple):
    """The new `problem` of an event that had the problem `before`."""

    event_id: str
    before: str
    problem: str


def put_notes(connection: sa.Connection, notes: Collection[EventNote]) -> None:
    """Update the problems of these events, except for those that have changed since."""
    for each in sorted(notes):
        unchanged = (events.c.id == each.event_id, events.c.problem == each.before)
        connection.execute(sa.update(events).where(*unchanged).values(problem=each.problem))


class LateCompletion(NamedTuple):
    """The new columns of a completed event. `completion`: JSON. `extent`: as text."""

    event_id: str
    completion: str
    extent: str


def complete(connection: sa.Connection, completed: Sequence[LateCompletion]) -> None:
    """Store the completions of these events, whose runs are locked."""
    for each in sorted(completed):
        changed = {"completion": each.completion, "extent": each.extent}
        connection.execute(sa.update(events).where(events.c.id == each.event_id).values(changed))


def put_status(connection: sa.Connection, key: RunKey, event_id: str, run: Run, now: float) -> None:
    """Update a locked run from the current data of its newest event, if that is `event_id`."""
    columns = ("title", "prompt", "workflow_id")
    told: dict[str, Any] = {name: sa.func.coalesce(getattr(run, name), runs.c[name]) for name in columns}
    update_run(connection, *key, runs.c.event_id == event_id, **told)
    many_rows.write(connection, words.changes([key], now))


def lock_deliveries(connection: sa.Connection, event_ids: Collection[str]) -> dict[str, dict[str, bool]]:
    """Lock the deliveries of these events until the transaction ends: a later claim reads what it has written.

    Returns by event and sink whether all of them have been sent, or are being sent.
    """
    it = deliveries.c
    query = sa.select(it.event_id, it.sink, it.state).where(dialect.among(it.event_id, event_ids))
    begun: dict[str, dict[str, bool]] = {}
    for event_id, sink, state in connection.execute(query.order_by(it.id).with_for_update()):
        sinks = begun.setdefault(event_id, {})
        sinks[sink] = sinks.get(sink, True) and state in (DeliveryState.SENDING, DeliveryState.DELIVERED)
    return begun
