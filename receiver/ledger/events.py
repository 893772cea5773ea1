"""Recording events: one transaction for a whole batch. Decides nothing about routing or repeats.

The order of statements is the order of locks, the same in every process: runs, sorted; then submissions, sorted; then
events; then deliveries, sorted. Unsorted, four dispatchers made 160 deadlocks in 600 transactions; sorted, none.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.deduplication import Facts
from receiver.domain.event import Event
from receiver.domain.parsed_event import ParsedEvent
from receiver.domain.run import Run, RunKey
from receiver.ledger import bulk
from receiver.ledger.deliveries import creation, links
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.schema import deliveries, events, runs


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run before this batch. `history`: its readable events, in the order of recording. `made`: this transaction has
    made its row, with the status of the one event that tells of it."""

    labels: Mapping[str, str]
    submission_id: str
    history: Sequence[Facts]
    made: bool = False


# What is known of the run of a test webhook: there is none.
NO_RUN = KnownRun({}, "", ())


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery to be made. `lane`: what its breaker guards, normally the sink itself."""

    sink: str
    route: str
    lane: str = ""
    after: tuple[str, ...] = ()


class NewEvent(NamedTuple):
    """An event to be recorded, with all that was found out about it."""

    event: Event
    run: Run
    body: bytes  # after redaction
    facts: Facts | None  # None: unreadable
    disposition: str
    repeat_of: str | None = None
    newest: bool = False  # it gives the run its status
    note: str = ""  # what an operator should see although the event is readable
    failed_rules: tuple[str, ...] = ()  # routes that could not be evaluated
    deliveries: Sequence[NewDelivery] = ()
    completion: Mapping[str, Any] = {}  # members of the run that the body lacks

    @property
    def key(self) -> RunKey:
        """The run that the event is about."""
        return self.event.source, self.run.run_id


def only_events(batch: Iterable[ParsedEvent]) -> dict[RunKey, ParsedEvent]:
    """Return the readable events that are the only one of their run in `batch`."""
    of_run: dict[RunKey, list[ParsedEvent]] = {}
    for each in batch:
        of_run.setdefault(each.key, []).append(each)
    return {key: found[0] for key, found in of_run.items() if len(found) == 1 and found[0].facts is not None}


def lock_runs(
    connection: sa.Connection, keys: Iterable[RunKey], now: float, only: Mapping[RunKey, ParsedEvent] = {}
) -> dict[RunKey, KnownRun]:
    """Insert the runs that are not there yet, lock them all until the transaction ends, and return what is known.

    `only`: by run, the one event that is about to be recorded. Most runs are new, and have no other: their row is made
    with its status, so that it is written once.
    """
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    times = {"first_seen_at": now, "updated_at": now}
    told = {key: _status(each.event, each.run) for key, each in only.items()}
    inserted = [
        {"source": key[0], "run_id": key[1], **(told.get(key) or _NOT_TOLD), "events": int(key in told), **times}
        for key in wanted
    ]
    rows = _lock(connection, inserted)
    there = {(row.source, row.run_id): row for row in rows}
    made = {
        key for key, each in only.items() if there[key].event_id == each.event.id and there[key].first_seen_at == now
    }
    history: dict[RunKey, list[Facts]] = {key: [] for key in wanted}
    for source, run_ids in bulk.by_source(key for key, row in there.items() if row.event_id and key not in made):
        query = _history(connection.dialect.name == "postgresql")
        for row in connection.execute(query, {"b_source": source, "b_run_ids": run_ids}):
            history[source, row.run_id].append(Facts(*row[1:]))
    return {
        key: KnownRun(json.loads(row.labels), row.submission_id, history[key], key in made)
        for key, row in there.items()
    }


_lock: Final = bulk.Insert(
    runs,
    lambda insert: insert.on_conflict_do_update(
        index_elements=[runs.c.source, runs.c.run_id], set_={"updated_at": insert.excluded.updated_at}
    ),
    [runs.c.source, runs.c.run_id, runs.c.labels, runs.c.submission_id, runs.c.event_id, runs.c.first_seen_at],
)


@functools.cache
def _history(on_postgresql: bool) -> sa.Select[Any]:
    """Return the query for the readable events of runs of one source, which is built once: the columns of Facts."""
    facts = [events.c["id" if each.name == "event_id" else each.name] for each in fields(Facts)]
    return (
        sa.select(events.c.run_id, *facts)
        .where(
            events.c.source == sa.bindparam("b_source"),
            bulk.among_given(on_postgresql, events.c.run_id, "b_run_ids"),
            events.c.disposition.not_in(("unreadable", "test")),
        )
        .order_by(events.c.seq)
    )


def record(
    connection: sa.Connection,
    batch: Sequence[NewEvent],
    now: float,
    claims: Mapping[str, ClaimAtOnce] = {},
    made: Mapping[RunKey, ParsedEvent] = {},
) -> list[NewEvent]:
    """Write the events, their deliveries and the runs' new status. Returns the events that were not there before.

    `claims`: by sink, those with which deliveries are made that wait for nothing. `made`: the runs whose row was made
    with the status of their only event; see `lock_runs`.
    """
    new = _record_events(connection, batch, now)
    recorded = [item for item in batch if item.event.id in new]
    _record_deliveries(connection, recorded, now, claims)
    _update_runs(connection, recorded, now, made)
    return recorded


# Dispositions of events that no route need take.
_NEVER_UNROUTED = ("update", "repeat", "superseded", "test")


def _record_events(connection: sa.Connection, batch: Sequence[NewEvent], now: float) -> set[str]:
    rows = [
        {
            "id": item.event.id,
            "source": item.event.source,
            "run_id": item.run.run_id,
            "via": item.event.via,
            "run_type": item.run.run_type,
            "status": item.run.status,
            "outcome": item.run.outcome,
            "attempt": item.run.attempt,
            "retry_pending": item.run.retry_pending,
            "final": item.run.final,
            "modified_at": item.run.modified_at,
            "fingerprint": item.facts.fingerprint if item.facts else "",
            "statement": item.facts.statement if item.facts else "",
            "extent": item.facts.extent if item.facts else "",
            "output_null": item.facts.output_null if item.facts else True,
            "disposition": item.disposition,
            "repeat_of": item.repeat_of,
            "unrouted": item.disposition not in _NEVER_UNROUTED and not item.deliveries,
            "problem": item.run.problem or item.note,
            "submission_id": item.event.submission_id,
            "received_at": item.event.received_at,
            "recorded_at": now,
            "body": item.body,
            "completion": json.dumps(item.completion, check_circular=False) if item.completion else "",
        }
        for item in batch
    ]
    return {row.id for row in _insert(connection, rows)}


_insert: Final = bulk.Insert(
    events, lambda insert: insert.on_conflict_do_nothing(index_elements=[events.c.id]), [events.c.id]
)


def _record_deliveries(
    connection: sa.Connection, batch: Sequence[NewEvent], now: float, claims: Mapping[str, ClaimAtOnce]
) -> None:
    creation.insert(
        connection,
        (
            creation.delivery_row(
                item.event.id,
                item.event.source,
                item.run.run_id,
                new.sink,
                new.route,
                now,
                lane=new.lane,
                after=new.after,
                claim=None if new.after else claims.get(new.sink),
            )
            for item in batch
            for new in item.deliveries
        ),
    )
    # Those that wait for a sink which an earlier event of the result has told: its end will release nothing of this.
    linked = [item.event.id for item in batch if any(set(new.after) - _sinks(item) for new in item.deliveries)]
    if linked:
        links.release_held(connection, deliveries.c.event_id.in_(linked), now)


def _sinks(item: NewEvent) -> set[str]:
    return {each.sink for each in item.deliveries}


def _update_runs(
    connection: sa.Connection, batch: Sequence[NewEvent], now: float, made: Mapping[RunKey, ParsedEvent]
) -> None:
    """Fold to one row a run: its newest event gives the run its status, and each event counts.

    `made`: as in `record`; of these rows, one event is counted.
    """
    newest: dict[RunKey, NewEvent] = {}
    counts: dict[RunKey, int] = dict.fromkeys(made, -1)
    for item in batch:
        if not item.run.run_id or item.disposition == "test":
            continue
        counts[item.key] = counts.get(item.key, 0) + 1
        if item.newest:
            newest[item.key] = item
    rows = [
        {**_status(item.event, item.run), "events": counts.pop(key), "first_seen_at": now, "updated_at": now}
        for key, item in sorted(newest.items(), key=itemgetter(0))
        if key not in made or _values(item.run) != _values(made[key].run)  # completed since
    ]
    _put_status(connection, rows)
    for (source, run_id), count in sorted(counts.items()):
        if count:
            it = runs.c
            of_run = sa.update(runs).where(it.source == source, it.run_id == run_id)
            connection.execute(of_run.values(events=it.events + count))
    for source, run_ids in bulk.by_source(made.keys() - newest.keys()):  # their only event turned out to be unreadable
        those = sa.update(runs).where(runs.c.source == source, bulk.among(connection, runs.c.run_id, run_ids))
        connection.execute(those.values(_NOT_TOLD))


def _update_status(insert: Any) -> Any:
    """Add the ON CONFLICT clause that gives a run the status of its newest event."""
    return insert.on_conflict_do_update(
        index_elements=[runs.c.source, runs.c.run_id],
        set_={
            **{name: insert.excluded[name] for name in (*_REPLACED, "event_id")},
            **{name: sa.func.coalesce(insert.excluded[name], runs.c[name]) for name in _KEPT},
            "events": runs.c.events + insert.excluded.events,
        },
    )


# Fields of a run that its newest event replaces.
_REPLACED = ("run_type", "status", "outcome", "attempt", "retry_pending", "final", "failure_reason")
# A later event with fewer keys (retry_webhook sends some) does not take away what an earlier one had.
_KEPT = (
    *("title", "workflow_id", "created_at", "started_at", "finished_at", "modified_at"),
    *("retried_from", "retried_by"),
)
_put_status: Final = bulk.Insert(runs, _update_status)
_OF_RUN = ("run_id", *_REPLACED, *_KEPT)
_values = attrgetter(*_OF_RUN)


def _status(event: Event, run: Run) -> dict[str, Any]:
    return {"source": event.source, "event_id": event.id, **dict(zip(_OF_RUN, _values(run), strict=True))}


# The status of a run of which no event has told.
_NOT_TOLD: Final = {"event_id": "", **{name: getattr(Run(), name) for name in (*_REPLACED, *_KEPT)}}
