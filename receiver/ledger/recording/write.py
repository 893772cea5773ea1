"""Write a batch of events that are decided: runs, events, deliveries, and the outbox of the word index, at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.event import Event
from receiver.domain.new_event import NewEvent
from receiver.domain.run import Run, RunKey
from receiver.ledger.database import many_rows
from receiver.ledger.database.errors import Outdated
from receiver.ledger.database.many_rows import Insert
from receiver.ledger.deliveries import creation, links
from receiver.ledger.deliveries.creation import AddedDelivery, ClaimAtOnce
from receiver.ledger.lists import words
from receiver.ledger.schema import deliveries, events, runs


class Written(NamedTuple):
    """The result of `write`. `deliveries`: the ids of the new ones.

    `events`: the new ones, which are all events of the batch, except for test webhooks that were recorded before.
    """

    events: list[NewEvent]
    deliveries: set[str]


def write(
    connection: sa.Connection,
    batch: Sequence[NewEvent],
    existing: Collection[RunKey],
    now: float,
    claim: ClaimAtOnce | None = None,
) -> Written:
    """Write the events of a batch, their deliveries and the runs' new status.

    `existing`: the runs that have a row, which is locked. `claim`: claims some of the deliveries at once.
    Raises Outdated if another transaction inserts one of the other runs.
    """
    new, newest, counted = _run_rows(batch, existing, now)
    told = [item.key for item in batch if _tells_of_run(item)]
    inserted, _, _, made, made_deliveries, _ = many_rows.write(
        connection,
        Insert(runs.c.run_id, new, many_rows.do_nothing),  # waits for another transaction that inserts it
        Insert(runs.c.run_id, newest, _put_status),
        Insert(runs.c.run_id, counted, _count),
        # In the order in which a run's events are compared.
        Insert(events.c.id, [_event_row(item, now) for item in batch], many_rows.do_nothing),
        Insert(deliveries.c.id, _delivery_rows(batch, now, claim), many_rows.do_nothing),
        words.changes(told, now),
    )
    if len(inserted) < len(new):
        raise Outdated("a run")
    # Deliveries that wait for a sink which got an earlier event of the result: its end will not release them.
    linked = [item.event.id for item in batch if any(set(each.after) - _sinks(item) for each in item.deliveries)]
    links.release_held(connection, linked, now)
    ids = set(made)
    return Written([item for item in batch if item.event.id in ids], set(made_deliveries))


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


def _delivery_rows(batch: Iterable[NewEvent], now: float, claim: ClaimAtOnce | None) -> list[dict[str, Any]]:
    """Return the rows of the deliveries of events, sorted by id. `claim`: as in `write`."""
    rows = []
    for item in batch:
        its = (item.event.id, item.event.source, item.run.run_id)
        for new in item.deliveries:
            row = creation.delivery_row(AddedDelivery(*its, new.sink, new.route, new.lane, new.after), now)
            rows.append(claim.of(row) if claim else row)
    return sorted(rows, key=itemgetter("id"))


def _sinks(item: NewEvent) -> set[str]:
    return {each.sink for each in item.deliveries}


def _tells_of_run(item: NewEvent) -> bool:
    return item.run.run_id != "" and item.disposition != "test"


def _run_rows(batch: Iterable[NewEvent], existing: Collection[RunKey], now: float) -> tuple[list[dict[str, Any]], ...]:
    """Return the rows of new runs, of existing ones with a new status, and of those that only get more events."""
    told = [item for item in batch if _tells_of_run(item)]
    newest = {item.key: item for item in told if item.newest}
    new, changed, counted = [], [], []
    for key, count in sorted(Counter(item.key for item in told).items()):
        more = {"events": count, "first_seen_at": now, "updated_at": now}
        status = _status(newest[key].event, newest[key].run) if key in newest else None
        if key not in existing:
            new.append((status or NO_STATUS) | {"source": key[0], "run_id": key[1]} | more)
        elif status:
            changed.append(status | more)
        else:
            counted.append({"source": key[0], "run_id": key[1], **more})
    return new, changed, counted


def _more(insert: Any) -> dict[str, Any]:
    return {
        "events": runs.c.events + insert.excluded.events,
        "updated_at": insert.excluded.updated_at,
    }


def _count(insert: Any) -> Any:
    """Add events to an existing run."""
    return many_rows.or_update(insert, _more(insert))


def _put_status(insert: Any) -> Any:
    """Set an existing run's status to that of its newest event, and add events."""
    changes = {
        **{name: insert.excluded[name] for name in (*_REPLACED, "event_id")},
        **{name: sa.func.coalesce(insert.excluded[name], runs.c[name]) for name in _KEPT},
        **_more(insert),
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


# The status of a run without an event that sets it, without its key.
NO_STATUS: Final = {"event_id": "", **dict(zip(_OF_RUN[1:], _values(Run())[1:], strict=True))}
