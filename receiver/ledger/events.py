"""Recording events: one transaction for a whole batch. Decides nothing about routing or repeats.

The order of statements is the order of locks, the same in every process: runs, sorted; then submissions, sorted; then
events; then deliveries, sorted. Unsorted, four dispatchers made 160 deadlocks in 600 transactions; sorted, none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.deduplication import Facts
from receiver.domain.event import Event
from receiver.domain.parsed_event import ParsedEvent, completion_text
from receiver.domain.run import Run, RunKey
from receiver.ledger import dialect, words
from receiver.ledger.deliveries import creation, links
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.history import of_runs
from receiver.ledger.schema import deliveries, events, runs


class KnownRun(NamedTuple):
    """A run before this batch. `history`: its readable events, in the order of recording; `recorded`: the ids of all.
    `made`: this transaction has made its row, with the status of the one event that tells of it. `events`: how many
    are counted, but for that one."""

    labels: Mapping[str, str]
    submission_id: str
    history: Sequence[Facts]
    recorded: Collection[str] = ()
    made: bool = False
    events: int = 0


# What is known of the run of a test webhook: there is none.
NO_RUN = KnownRun({}, "", ())


class NewDelivery(NamedTuple):
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

    @property
    def problem(self) -> str:
        """What an operator should see, or ""."""
        return self.run.problem or self.note

    def completion_text(self) -> str:
        """Return the completion as its column has it."""
        return completion_text(self.completion)


def only_events(batch: Iterable[ParsedEvent]) -> dict[RunKey, ParsedEvent]:
    """Return the readable events that are the only one of their run in `batch`."""
    of_run: dict[RunKey, list[ParsedEvent]] = {}
    for each in batch:
        of_run.setdefault(each.key, []).append(each)
    return {key: found[0] for key, found in of_run.items() if len(found) == 1 and found[0].facts is not None}


def lock(
    connection: sa.Connection, keys: Iterable[RunKey], now: float, only: Mapping[RunKey, ParsedEvent] = {}
) -> Sequence[Any]:
    """Insert the runs that are not there yet, and lock them all until the transaction ends. Returns rows for `known`.

    `only`: by run, the one event that is about to be recorded. Most runs are new, and have no other: their row is made
    with its status, so that it is written once.
    """
    times = {"first_seen_at": now, "updated_at": now}
    told = {key: _status(each.event, each.run) for key, each in only.items()}
    rows = [
        {"source": key[0], "run_id": key[1], **(told.get(key) or _NOT_TOLD), "events": int(key in told), **times}
        for key in sorted(set(keys))
    ]
    return dialect.insert_many(connection, runs, rows, _lock, _KNOWN)


def known(
    connection: sa.Connection, locked: Iterable[Any], now: float, only: Mapping[RunKey, ParsedEvent] = {}
) -> dict[RunKey, KnownRun]:
    """Return what is known of the runs that `lock` has locked: of its rows. `now`, `only`: as given to it."""
    there = {(row.source, row.run_id): row for row in locked}
    made = {
        key for key, each in only.items() if there[key].event_id == each.event.id and there[key].first_seen_at == now
    }
    history: dict[RunKey, list[Facts]] = {key: [] for key in there}
    recorded: dict[RunKey, list[str]] = {key: [] for key in there}
    for past in of_runs(connection, (key for key, row in there.items() if row.events and key not in made)):
        recorded[past.key].append(past.id)
        if past.facts is not None:
            history[past.key].append(past.facts)
    return {
        key: KnownRun(
            *(json.loads(row.labels) if row.labels != "{}" else {}, row.submission_id, history[key], recorded[key]),
            made=key in made,
            events=row.events - (key in made),
        )
        for key, row in there.items()
    }


def _lock(insert: Any) -> Any:
    """Lock a run that is there. Its update time moves: of two that record, the second reads what the first wrote."""
    return insert.on_conflict_do_update(
        index_elements=[runs.c.source, runs.c.run_id], set_={"updated_at": insert.excluded.updated_at}
    )


_KNOWN: Final = (
    *(runs.c.source, runs.c.run_id, runs.c.labels, runs.c.submission_id),
    *(runs.c.event_id, runs.c.events, runs.c.first_seen_at),
)


class Written(NamedTuple):
    """What was recorded. `deliveries`: the ids of the new ones.

    `events`: those that were not there before; of a run that was locked, these are all, once those that `known` has are
    left out.
    """

    events: list[NewEvent]
    deliveries: set[str]


def record(
    connection: sa.Connection,
    batch: Sequence[NewEvent],
    now: float,
    claim: ClaimAtOnce | None = None,
    made: Mapping[RunKey, ParsedEvent] = {},
) -> Written:
    """Write the events, their deliveries and the runs' new status.

    `claim`: with which some of the deliveries are recorded. `made`: the runs whose row was made with the status of
    their only event; see `lock`.
    """
    rows = [_event_row(item, now) for item in batch]  # in the order in which a run's events are compared
    new = {row.id for row in dialect.insert_many(connection, events, rows, dialect.do_nothing, (events.c.id,))}
    made_deliveries = creation.insert(connection, _delivery_rows(batch, now, claim))
    words.queue(connection, [item.key for item in batch if _tells_of_run(item)], now)
    _update_runs(connection, batch, now, made)
    # Those that wait for a sink which an earlier event of the result has told: its end will release nothing of this.
    linked = [item.event.id for item in batch if any(set(each.after) - _sinks(item) for each in item.deliveries)]
    if linked:
        links.release_held(connection, deliveries.c.event_id.in_(linked), now)
    return Written([item for item in batch if item.event.id in new], set(made_deliveries))


# Dispositions of events that no route need take.
_NEVER_UNROUTED = ("update", "repeat", "superseded", "test")


def _event_row(item: NewEvent, now: float) -> dict[str, Any]:
    """Return the row of an event."""
    event, run, facts = item.event, item.run, item.facts
    return {
        "id": event.id,
        "source": event.source,
        "run_id": run.run_id,
        "via": event.via,
        "run_type": run.run_type,
        "status": run.status,
        "outcome": run.outcome,
        "attempt": run.attempt,
        "retry_pending": run.retry_pending,
        "final": run.final,
        "modified_at": run.modified_at,
        "fingerprint": facts.fingerprint if facts else "",
        "statement": facts.statement if facts else "",
        "extent": facts.extent if facts else "",
        "output_null": facts.output_null if facts else True,
        "disposition": item.disposition,
        "repeat_of": item.repeat_of,
        "unrouted": item.disposition not in _NEVER_UNROUTED and not item.deliveries,
        "problem": item.problem,
        "submission_id": event.submission_id,
        "received_at": event.received_at,
        "recorded_at": now,
        "body": item.body,
        "completion": item.completion_text(),
    }


def _delivery_rows(batch: Iterable[NewEvent], now: float, claim: ClaimAtOnce | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of the deliveries of events. `claim`: as in `record`."""
    for item in batch:
        event, run_id = item.event, item.run.run_id
        for new in item.deliveries:
            row = creation.delivery_row(
                event.id, event.source, run_id, new.sink, new.route, now, lane=new.lane, after=new.after
            )
            yield claim.of(row) if claim else row


def _sinks(item: NewEvent) -> set[str]:
    return {each.sink for each in item.deliveries}


def _tells_of_run(item: NewEvent) -> bool:
    return item.run.run_id != "" and item.disposition != "test"


def _update_runs(
    connection: sa.Connection, batch: Sequence[NewEvent], now: float, made: Mapping[RunKey, ParsedEvent]
) -> None:
    """Fold to one row a run: its newest event gives the run its status, and each event counts.

    `made`: as in `record`; of these rows, one event is counted.
    """
    newest: dict[RunKey, NewEvent] = {}
    counts: dict[RunKey, int] = dict.fromkeys(made, -1)
    for item in batch:
        if not _tells_of_run(item):
            continue
        counts[item.key] = counts.get(item.key, 0) + 1
        if item.newest:
            newest[item.key] = item
    rows = [
        {**_status(item.event, item.run), "events": counts.pop(key), "first_seen_at": now, "updated_at": now}
        for key, item in sorted(newest.items(), key=itemgetter(0))
        if key not in made or _values(item.run) != _values(made[key].run)  # completed since
    ]
    dialect.insert_many(connection, runs, rows, _put_status)
    for (source, run_id), count in sorted(counts.items()):
        if count:
            connection.execute(_COUNT, {"b_source": source, "b_run_id": run_id, "b_count": count})
    for source, run_id in sorted(made.keys() - newest.keys()):  # its only event turned out to be unreadable
        connection.execute(_FORGET, {"b_source": source, "b_run_id": run_id})


_THIS_RUN: Final = sa.update(runs).where(
    runs.c.source == sa.bindparam("b_source"), runs.c.run_id == sa.bindparam("b_run_id")
)
_COUNT: Final = _THIS_RUN.values(events=runs.c.events + sa.bindparam("b_count", type_=sa.Integer))


def _put_status(insert: Any) -> Any:
    """Give a run that is there already the status of its newest event, and count the events that are given."""
    changes = {
        **{name: insert.excluded[name] for name in (*_REPLACED, "event_id")},
        **{name: sa.func.coalesce(insert.excluded[name], runs.c[name]) for name in _KEPT},
        "events": runs.c.events + insert.excluded.events,
    }
    return insert.on_conflict_do_update(index_elements=[runs.c.source, runs.c.run_id], set_=changes)


# Fields of a run that its newest event replaces.
_REPLACED = ("run_type", "status", "outcome", "attempt", "retry_pending", "final", "failure_reason")
# A later event with fewer keys (retry_webhook sends some) does not take away what an earlier one had.
_KEPT = (
    *("title", "workflow_id", "created_at", "started_at", "finished_at", "modified_at"),
    *("retried_from", "retried_by"),
)
_OF_RUN = ("run_id", *_REPLACED, *_KEPT)
_values = attrgetter(*_OF_RUN)
_STATUS: Final = ("source", "event_id", *_OF_RUN)


def _status(event: Event, run: Run) -> dict[str, Any]:
    """Return the columns of a run that its newest event gives it."""
    return dict(zip(_STATUS, (event.source, event.id, *_values(run)), strict=True))


# The status of a run of which no event has told.
_NOT_TOLD: Final = {"event_id": "", **{name: getattr(Run(), name) for name in (*_REPLACED, *_KEPT)}}
_FORGET: Final = _THIS_RUN.values(_NOT_TOLD)
