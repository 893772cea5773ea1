"""Recording events that are the first of their run, as most are: in one request.

To decide about such an event nothing need be known of its run, or only the submission that the run came of, which is
read without a lock. So the events are decided about first, and the statement that records them has conditions: it
writes nothing for a run that is there already or has a submission, unless it is the given submission and the run has no
event. What it did not write is recorded as all other events are, with the runs locked first (events.py).

A few events have a statement each; of more, one statement records all. Locks are taken in an order that fits that of
events.py: runs, sorted; and under each run, its event and its deliveries.

A new run has no event, and a new event no delivery, so only runs may be there already. The database refuses what breaks
that rule, and the whole batch is then recorded as all others are: to look for each event and delivery first, and to
tell other sessions what is about to be inserted (ON CONFLICT), costs more than a tenth of it all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from receiver.domain.run import RunKey
from receiver.ledger import bulk, first_on_sqlite
from receiver.ledger.deliveries import creation
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.events import STATUS, NewEvent, Written, delivery_rows, event_row, status, status_update
from receiver.ledger.schema import deliveries, events, runs, submissions, to_index
from receiver.ledger.statements import BoundStatement, BuiltStatement
from receiver.ledger.submissions.records import Submission

# Up to so many events have a statement each. PostgreSQL takes as long for four statements as for one of all four, and
# 1.7 times as long for eight.
_FEW: Final = 4


class Insertions(NamedTuple):
    """What records events. `ids`: of the events and deliveries that it makes; None where its rows say so."""

    asked: Sequence[BoundStatement]
    ids: Collection[str] | None = None


def candidates(
    connection: sa.Connection, batch: list[NewEvent], submitted: Mapping[RunKey, Submission]
) -> list[NewEvent]:
    """Return the events that may be the first of their run: on SQLite, those that are; else all."""
    if connection.dialect.name == "postgresql":
        return batch
    of_submissions = {key: each.id for key, each in submitted.items()}
    found = first_on_sqlite.new_runs(connection, [each.key for each in batch], of_submissions)
    return [each for each in batch if each.key in found]


def insertions(
    connection: sa.Connection,
    batch: Sequence[NewEvent],
    now: float,
    claims: Mapping[str, ClaimAtOnce],
    due_at: Mapping[RunKey, float],
    submitted: Mapping[RunKey, Submission] = {},
) -> Insertions:
    """Return what records those of the events whose run is new and has no submission, or has the one that `submitted`
    names and no event.

    `batch`: `candidates`, in the order of their runs; each is readable, the only event of its run in the batch, and
    gives the run its status. `claims`: by sink, with which deliveries are made that wait for nothing. `due_at`: by run,
    when Skyvern is asked for it once more. `submitted`: by run, the submission whose token its event has come with.
    """
    if not batch:
        return Insertions(())
    on_sqlite = connection.dialect.name != "postgresql"
    if len(batch) <= _FEW and not on_sqlite:
        few = [_insertion(item, now, claims, due_at.get(item.key), submitted.get(item.key)) for item in batch]
        return Insertions(few)
    of_run, values = _of_run(submitted), _columns(batch, now, due_at, submitted)
    made = [creation.with_claim(row) for row in delivery_rows(batch, now, claims)]
    if on_sqlite:
        run, event = ({name: values[name] for name in names} for names in (of_run, _OF_EVENT))
        asked = first_on_sqlite.insertions(connection, run, event, made, now)
        return Insertions(asked, {*values["id"], *(row["id"] for row in made)})
    values |= _transposed(_OF_DELIVERIES, map(_of_delivery, made))
    level = bulk.level_of(values, _UNIFORM_LEVELS)
    given = bulk.with_uniform(values, _uniform(level, of_run))
    return Insertions([_for_all(of_run, level).with_values(**given, recorded_at=now)])


def written(batch: Sequence[NewEvent], made: Insertions, found: Sequence[Sequence[Any]]) -> Written:
    """Return what was recorded of `batch`. `made`: its `insertions`; `found`: their rows, and those of what follows."""
    asked, ids = made
    if ids is None:
        ids = {each for rows in found[: len(asked)] for row in rows for each in (row.ids or "").split()}
    return Written([item for item in batch if item.event.id in ids], set(ids), found[len(asked) :])


def _insertion(
    item: NewEvent,
    now: float,
    claims: Mapping[str, ClaimAtOnce],
    due_at: float | None,
    submission: Submission | None,
) -> BoundStatement:
    """Return what records one event. `submission`: whose token it has come with."""
    row = status(item.event, item.run) | event_row(item, now) | {"labels": _labels(submission), "due_at": due_at}
    for number, made in enumerate(delivery_rows([item], now, claims)):
        whole = creation.with_claim(made)
        row |= {f"{name}_{number}": whole[name] for name in _OWN}
    return _for_one(len(item.deliveries), _of_run(submission)).with_values(**row)


def _columns(
    batch: Sequence[NewEvent], now: float, due_at: Mapping[RunKey, float], submitted: Mapping[RunKey, Submission]
) -> dict[str, list[Any]]:
    """Return the columns of the events and their runs."""
    keys = [item.key for item in batch]
    found = _transposed(_OF_EVENT, [_of_event(event_row(item, now)) for item in batch])
    found |= _transposed(_OF_RUN_ALONE, [_of_run_alone(item.run) for item in batch])
    found |= {"event_id": found["id"], "due_at": [due_at.get(key) for key in keys]}
    if submitted:
        found["labels"] = [_labels(submitted.get(key)) for key in keys]
    return found


def _transposed(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the columns of these rows, each of which has the values of `names`."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return dict(zip(names, columns or ([] for _ in names), strict=True))


def _labels(submission: Submission | None) -> str:
    return json.dumps(dict(submission.labels)) if submission else "{}"


# The columns of a run and of an event that are given. Times are given once for all.
_OF_NEW_RUN: Final = (*STATUS, "due_at")
_OF_SUBMITTED: Final = (*_OF_NEW_RUN, "submission_id", "labels")
_OF_EVENT: Final = tuple(it.name for it in events.c if it.name not in ("seq", "recorded_at"))
# Columns of a delivery that differ from those of its event.
_OWN: Final = (
    *("id", "sink", "lane", "route", "after", "state"),
    *("attempts", "prefetched", "claim_owner", "claim_number", "claim_until"),
)
# The columns of a run's status that are not columns of its event under the same name.
_OF_RUN_ALONE: Final = tuple(name for name in STATUS if name not in (*_OF_EVENT, "event_id"))
_of_run_alone: Final = attrgetter(*_OF_RUN_ALONE)
_of_event: Final = itemgetter(*_OF_EVENT)
_of_delivery: Final = itemgetter("event_id", *_OWN)


def _of_run(submitted: object) -> Sequence[str]:
    """Return the columns of a run that are given: fewer where none was submitted, so that PostgreSQL has less to do."""
    return _OF_SUBMITTED if submitted else _OF_NEW_RUN


_OF_DELIVERY: Final = "_of_delivery"  # added to the names of the deliveries' values
_OF_DELIVERIES: Final = tuple(f"{name}{_OF_DELIVERY}" for name in ("event_id", *_OWN))

# See bulk.py. Level 1: ordinary webhooks of one source. 2: each of them for the same sink. 3: with the same status.
_UNIFORM_LEVELS: Final[Sequence[Sequence[str]]] = (
    (),
    (
        *("source", "via", "attempt", "retry_pending", "final", "disposition", "repeat_of", "unrouted", "problem"),
        *("completion", "retried_from", "retried_by", "due_at", "labels", "fingerprint", "statement", "extent"),
    ),
    tuple(f"{name}{_OF_DELIVERY}" for name in _OWN if name != "id"),
    ("run_type", "status", "outcome", "output_null", "failure_reason", "title", "workflow_id"),
)


@cache
def _uniform(level: int, of_run: Sequence[str]) -> frozenset[str]:
    """Return the columns that are uniform in a batch of this level."""
    uniform = bulk.uniform_by_level(_UNIFORM_LEVELS)[level]
    return uniform if "submission_id" in of_run else uniform | {"submission_id"}


@cache
def _for_one(count: int, of_run: Sequence[str]) -> BuiltStatement:
    """Return the statement that records one event with `count` deliveries, and returns the ids of what it made.

    Its values: the columns of the event and the run that are given; those of _OWN, with the number of their delivery.
    """
    run, event = (
        {name: bulk.given_value(of.c[name], name) for name in names}
        for of, names in ((runs, of_run), (events, _OF_EVENT))
    )
    made = [
        {"event_id": event["id"], **{name: bulk.given_value(deliveries.c[name], f"{name}_{number}") for name in _OWN}}
        for number in range(count)
    ]
    return BuiltStatement(lambda _: _build(run, event, made))


@cache
def _for_all(of_run: Sequence[str], level: int) -> BuiltStatement:
    """Return the same for any number of events and deliveries. Its values are lists, but for uniform columns."""
    uniform, own = _uniform(level, of_run), ("event_id", *_OWN)
    run = bulk.given_columns({name: runs.c[name] for name in of_run}, uniform)
    event = bulk.given_columns({name: events.c[name] for name in _OF_EVENT}, uniform)
    delivery = bulk.given_columns({f"{name}{_OF_DELIVERY}": deliveries.c[name] for name in own}, uniform)
    return BuiltStatement(lambda _: _build(run, event, [dict(zip(own, delivery.values(), strict=True))]))


def _build(run: _Columns, event: _Columns, made: Sequence[_Columns]) -> Any:
    """Return the statement that records what is given by these columns. `made`: of deliveries."""
    now = bulk.given_value(events.c.recorded_at, "recorded_at")
    row = {**run, "events": sa.literal_column("1"), "first_seen_at": now, "updated_at": now}
    # Submissions are looked up one by one, so the rows stay in their order, which is that of locks.
    those = sa.select(*row.values()).where(sa.not_(_has_submission(run)))
    first: Any = postgresql.insert(runs).from_select(list(row), those)
    first = _on_conflict(first, submitted="submission_id" in run)
    first_of_runs = first.returning(runs.c.event_id).cte("first_of_runs")
    row = {**event, "recorded_at": now}
    of_first = sa.select(*row.values()).where(first_of_runs.c.event_id == event["id"])
    new = postgresql.insert(events).from_select(list(row), of_first)
    recorded = new.returning(events.c.id, events.c.source, events.c.run_id).cte("new_events")
    ids: Any = sa.select(recorded.c.id)
    if made:
        of_event = {"source": recorded.c.source, "run_id": recorded.c.run_id}
        times = dict.fromkeys(("due_at", "created_at", "updated_at"), now)
        rows = [{**each, **of_event, **times} for each in made]
        chosen = [sa.select(*each.values()).where(recorded.c.id == each["event_id"]) for each in rows]
        of_recorded = sa.union_all(*chosen) if len(chosen) > 1 else chosen[0]
        delivered = postgresql.insert(deliveries).from_select(list(rows[0]), of_recorded).returning(deliveries.c.id)
        ids = sa.union_all(ids, sa.select(delivered.cte("new_deliveries").c.id))
    queued = postgresql.insert(to_index).from_select(
        ["source", "run_id", "queued_at"], sa.select(recorded.c.source, recorded.c.run_id, now)
    )
    # As one value: a row for each id takes both sides longer.
    one: Any = sa.func.string_agg(ids.subquery().c.id, sa.literal_column("' '"), type_=sa.Text())
    return sa.select(one.label("ids")).add_cte(queued.cte("queued"))


_Columns = Mapping[str, sa.ColumnElement[Any]]
_NONE: Final[sa.ColumnElement[str]] = sa.literal_column("''")
_RUN_KEY: Final = (runs.c.source, runs.c.run_id)


def _has_submission(run: _Columns) -> sa.ColumnElement[bool]:
    """Return the condition that the run has a submission though none is given."""
    of_run = sa.and_(submissions.c.source == run["source"], submissions.c.run_id == run["run_id"])
    one: sa.ColumnElement[int] = sa.literal_column("1", sa.Integer())
    # Not EXISTS, of which PostgreSQL makes a join.
    there = sa.select(one).where(of_run).limit(one).scalar_subquery().is_not(None)
    return sa.and_(run["submission_id"] == _NONE, there) if "submission_id" in run else there


def _on_conflict(insert: Any, *, submitted: bool) -> Any:
    """Add what is done with a run that is there: it gets the status if it has no event, and the given submission."""
    if not submitted:
        return insert.on_conflict_do_nothing(index_elements=_RUN_KEY)
    given = insert.excluded
    changed = {"due_at": sa.func.coalesce(runs.c.due_at, given.due_at), "updated_at": given.updated_at}
    return insert.on_conflict_do_update(
        index_elements=_RUN_KEY,
        set_=status_update(insert) | changed,
        where=sa.and_(
            *(given.submission_id != _NONE, runs.c.submission_id == given.submission_id),
            runs.c.events == sa.literal_column("0"),
        ),
    )
