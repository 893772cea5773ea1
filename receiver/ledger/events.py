"""Record a batch of events in one transaction. Routing and deduplication are decided by the caller.

Statements lock rows in the same order in every process: runs, sorted; then submissions, sorted; then events; then
deliveries, sorted. Unsorted, four dispatchers caused 160 deadlocks in 600 transactions; sorted, none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.deduplication import Facts
from receiver.domain.event import Event
from receiver.domain.parsed_event import completion_text
from receiver.domain.run import Run, RunKey
from receiver.ledger import dialect, many_rows, words
from receiver.ledger.deliveries import creation, links
from receiver.ledger.deliveries.creation import AddedDelivery, ClaimAtOnce
from receiver.ledger.history import of_runs
from receiver.ledger.schema import events, runs


class KnownRun(NamedTuple):
    """A run before this batch. `history`: its readable events, in the order of recording.

    `recorded`: the ids of all its events. `erased`: its content was, and must not come back.
    """

    labels: Mapping[str, str]
    submission_id: str
    history: Sequence[Facts]
    recorded: Collection[str] = ()
    erased: bool = False


# A test webhook has no run.
NO_RUN = KnownRun({}, "", ())


class NewDelivery(NamedTuple):
    """A delivery to create. `lane`: what its breaker guards, normally the sink itself."""

    sink: str
    route: str
    lane: str = ""
    after: tuple[str, ...] = ()


class NewEvent(NamedTuple):
    """An event to record, with its run, facts, disposition and deliveries."""

    event: Event
    run: Run
    body: bytes  # after redaction
    facts: Facts | None  # None: unreadable
    disposition: str
    repeat_of: str | None = None
    newest: bool = False  # it sets the run's status
    note: str = ""  # for the operator, although the event is readable
    failed_rules: tuple[str, ...] = ()  # routes that could not be evaluated
    deliveries: Sequence[NewDelivery] = ()
    completion: Mapping[str, Any] = {}  # members of the run that the body lacks

    @property
    def key(self) -> RunKey:
        """The run that the event is about."""
        return self.event.source, self.run.run_id

    @property
    def problem(self) -> str:
        """The problem to show to the operator, or ""."""
        return self.run.problem or self.note

    def completion_text(self) -> str:
        """Return the completion as text for its column."""
        return completion_text(self.completion)


def lock(connection: sa.Connection, keys: Iterable[RunKey], now: float) -> Sequence[Any]:
    """Insert missing runs, and lock all until the transaction ends. Returns rows for `known`."""
    times = {"first_seen_at": now, "updated_at": now}
    rows = [{"source": source, "run_id": run_id, **times} for source, run_id in sorted(set(keys))]
    return many_rows.insert_many(connection, runs, rows, _lock, _KNOWN)


def known(connection: sa.Connection, locked: Iterable[Any]) -> dict[RunKey, KnownRun]:
    """Return the runs that `lock` has locked, from its rows."""
    there = {(row.source, row.run_id): row for row in locked}
    history: dict[RunKey, list[Facts]] = {key: [] for key in there}
    recorded: dict[RunKey, list[str]] = {key: [] for key in there}
    for past in of_runs(connection, (key for key, row in there.items() if row.events)):
        recorded[past.key].append(past.id)
        if past.facts is not None:
            history[past.key].append(past.facts)
    return {
        key: KnownRun(
            json.loads(row.labels) if row.labels != "{}" else {},
            *(row.submission_id, history[key], recorded[key], row.erased_at is not None),
        )
        for key, row in there.items()
    }


def erased(connection: sa.Connection, keys: Collection[RunKey]) -> dict[RunKey, KnownRun]:
    """Return those of the runs that were erased. The others are not until this transaction ends.

    For test webhooks, which lock no run.
    """
    if not keys:
        return {}
    it = runs.c
    query = sa.select(it.source, it.run_id, it.erased_at).where(dialect.of_runs(runs, keys))
    rows = connection.execute(query.order_by(it.source, it.run_id).with_for_update(read=True))
    return {(row.source, row.run_id): NO_RUN._replace(erased=True) for row in rows if row.erased_at is not None}


def _lock(insert: Any) -> Any:
    """Lock an existing run by updating its time: of two recordings, the second reads what the first wrote."""
    return many_rows.or_update(insert, {"updated_at": insert.excluded.updated_at})


_KNOWN: Final = (runs.c.source, runs.c.run_id, runs.c.labels, runs.c.submission_id, runs.c.events, runs.c.erased_at)


class Written(NamedTuple):
    """The result of `record`. `deliveries`: the ids of the new ones.

    `events`: the new ones. For locked runs, these are all events of the batch except those that `known` lists.
    """

    events: list[NewEvent]
    deliveries: set[str]


def record(
    connection: sa.Connection,
    batch: Sequence[NewEvent],
    now: float,
    claim: ClaimAtOnce | None = None,
) -> Written:
    """Write the events, their deliveries and the runs' new status. `claim`: claims some of the deliveries at once."""
    rows = [_event_row(item, now) for item in batch]  # in the order in which a run's events are compared
    new = {row.id for row in many_rows.insert_many(connection, events, rows, many_rows.do_nothing, (events.c.id,))}
    made_deliveries = creation.insert(connection, _delivery_rows(batch, now, claim))
    words.queue(connection, [item.key for item in batch if _tells_of_run(item)], now)
    _update_runs(connection, batch, now)
    # Deliveries that wait for a sink which got an earlier event of the result: its end will not release them.
    linked = [item.event.id for item in batch if any(set(each.after) - _sinks(item) for each in item.deliveries)]
    links.release_held(connection, linked, now)
    return Written([item for item in batch if item.event.id in new], set(made_deliveries))


_COPY: Final = (
    sa.update(events)
    .where(events.c.id == sa.bindparam("b_id"), events.c.received_at < sa.bindparam("b_at"))
    .where(sa.func.coalesce(events.c.copied_at, 0.0) < sa.bindparam("b_at"))
    .values(copies=events.c.copies + 1, copied_at=sa.bindparam("b_at"))
)


def count_copies(connection: sa.Connection, copies: Iterable[Event]) -> None:
    """Count webhooks with the body of a recorded event. Reading an entry of the inbox again adds nothing: each has the
    time at which it was received. A copy that was received before one that is counted is not counted."""
    found = sorted({(each.id, each.received_at) for each in copies})
    connection.execute(_COPY, [{"b_id": key, "b_at": at} for key, at in found])


# Dispositions of events that never count as unrouted.
_NEVER_UNROUTED = ("update", "repeat", "superseded", "test")


_RUN_OF_EVENT: Final = ("run_id", "run_type", "status", "outcome", "attempt", "retry_pending", "final", "modified_at")


def _event_row(item: NewEvent, now: float) -> dict[str, Any]:
    """Return the row of an event."""
    event, run, facts = item.event, item.run, item.facts
    return {
        **{name: getattr(event, name) for name in ("id", "source", "via", "submission_id", "received_at")},
        **{name: getattr(run, name) for name in _RUN_OF_EVENT},
        "statement": facts.statement if facts else "",
        "extent": str(facts.extent) if facts else "",
        "output_null": facts.output_null if facts else True,
        "disposition": item.disposition,
        "repeat_of": item.repeat_of,
        "unrouted": item.disposition not in _NEVER_UNROUTED and not item.deliveries,
        "problem": item.problem,
        "recorded_at": now,
        "body": item.body,
        "completion": item.completion_text(),
    }


def _delivery_rows(batch: Iterable[NewEvent], now: float, claim: ClaimAtOnce | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of the deliveries of events. `claim`: as in `record`."""
    for item in batch:
        its = (item.event.id, item.event.source, item.run.run_id)
        for new in item.deliveries:
            row = creation.delivery_row(AddedDelivery(*its, new.sink, new.route, new.lane, new.after), now)
            yield claim.of(row) if claim else row


def _sinks(item: NewEvent) -> set[str]:
    return {each.sink for each in item.deliveries}


def _tells_of_run(item: NewEvent) -> bool:
    return item.run.run_id != "" and item.disposition != "test"


def _update_runs(connection: sa.Connection, batch: Sequence[NewEvent], now: float) -> None:
    """Update each run once: set the status of its newest event, and add the number of its events."""
    told = [item for item in batch if _tells_of_run(item)]
    counts = Counter(item.key for item in told)
    newest = {item.key: item for item in told if item.newest}
    rows = [
        {**_status(item.event, item.run), "events": counts.pop(key), "first_seen_at": now, "updated_at": now}
        for key, item in sorted(newest.items(), key=itemgetter(0))
    ]
    many_rows.insert_many(connection, runs, rows, _put_status)
    seen = {"first_seen_at": now, "updated_at": now}  # unused, because these rows exist
    rest = [{"source": key[0], "run_id": key[1], "events": count, **seen} for key, count in sorted(counts.items())]
    many_rows.insert_many(connection, runs, rest, _count)


def _count(insert: Any) -> Any:
    return many_rows.or_update(insert, {"events": runs.c.events + insert.excluded.events})


def _put_status(insert: Any) -> Any:
    """Set an existing run's status to that of its newest event, and add the number of events."""
    changes = {
        **{name: insert.excluded[name] for name in (*_REPLACED, "event_id")},
        **{name: sa.func.coalesce(insert.excluded[name], runs.c[name]) for name in _KEPT},
        "events": runs.c.events + insert.excluded.events,
    }
    return many_rows.or_update(insert, changes)


# Fields of a run that its newest event replaces.
_REPLACED = ("run_type", "status", "outcome", "attempt", "retry_pending", "final", "failure_reason")
# A later event with fewer keys, such as from retry_webhook, keeps the values of earlier events.
_KEPT = (
    *("title", "prompt", "workflow_id", "created_at", "started_at", "finished_at", "modified_at"),
    *("retried_from", "retried_by"),
)
_OF_RUN = ("run_id", *_REPLACED, *_KEPT)
_values = attrgetter(*_OF_RUN)
_STATUS: Final = ("source", "event_id", *_OF_RUN)


def _status(event: Event, run: Run) -> dict[str, Any]:
    """Return the columns of a run that its newest event sets."""
    return dict(zip(_STATUS, (event.source, event.id, *_values(run)), strict=True))
