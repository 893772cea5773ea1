"""Recording events whose runs are new to the ledger, and were not submitted through us: in one request.

Most are such, and of them nothing need be known before they are decided about. So they are decided first, and the
statement that records them says when it may: it writes nothing for a run that is there, or that has a submission. What
it did not write is recorded as all others are, by events.py: the runs locked first.

A few events have a statement each, and more of them one for all, with an array for each column. Locks are taken in an
order that fits that of events.py: runs, sorted; and under each run, its event and its deliveries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from receiver.ledger import bulk
from receiver.ledger.deliveries import creation
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.events import STATUS, NewEvent, Written, delivery_rows, event_row, status
from receiver.ledger.requests import Asked, BuiltStatement
from receiver.ledger.schema import deliveries, events, runs, submissions

# Events that have a statement each. PostgreSQL takes the same time for four of them as for one of all four, and for
# eight 1.7 times as much.
_FEW: Final = 4


def insertions(
    batch: Sequence[NewEvent], now: float, claims: Mapping[str, ClaimAtOnce], due_at: Mapping[str, float]
) -> list[Asked]:
    """Return what records those of the events whose run is new and has no submission.

    `batch` is in the order of `key`; each is the only event of its run, readable, and gives the run its status.
    `claims`: by sink, those with which deliveries are made that wait for nothing. `due_at`: by event id, when Skyvern
    is asked for the run once more.
    """
    if len(batch) > _FEW:
        return [_insertion_of_all(batch, now, claims, due_at)]
    return [_insertion(item, now, claims, due_at.get(item.event.id)) for item in batch]


def written(batch: Sequence[NewEvent], asked: Sequence[Asked], found: Sequence[Sequence[Any]]) -> Written:
    """Return what was recorded of `batch`. `asked`: its `insertions`; `found`: the rows of each, and of others."""
    ids = {row.id for rows in found[: len(asked)] for row in rows}
    return Written([item for item in batch if item.event.id in ids], ids, found[len(asked) :])


def _insertion(item: NewEvent, now: float, claims: Mapping[str, ClaimAtOnce], due_at: float | None) -> Asked:
    values = {**status(item.event, item.run), **event_row(item, now), "due_at": due_at}
    for number, row in enumerate(delivery_rows([item], now, claims)):
        whole = creation.with_claim(row)
        values |= {f"{name}_{number}": whole[name] for name in _OWN}
    return _for_one(len(item.deliveries)).with_values(**values)


def _insertion_of_all(
    batch: Sequence[NewEvent], now: float, claims: Mapping[str, ClaimAtOnce], due_at: Mapping[str, float]
) -> Asked:
    rows = [
        {**status(item.event, item.run), **event_row(item, now), "due_at": due_at.get(item.event.id)} for item in batch
    ]
    values = {name: [row[name] for row in rows] for name in {*_OF_RUN, *_OF_EVENT}}
    made = [creation.with_claim(row) for row in delivery_rows(batch, now, claims)]
    values |= {f"{name}_of_delivery": [row[name] for row in made] for name in ("event_id", *_OWN)}
    return _for_all.with_values(**values, recorded_at=now)


# What of a run and of an event is given, but for the time.
_OF_RUN: Final = (*STATUS, "due_at")
_OF_EVENT: Final = tuple(it.name for it in events.c if it.name not in ("seq", "recorded_at"))
# Columns of a delivery that differ from those of its event.
_OWN: Final = (
    *("id", "sink", "lane", "route", "after", "state"),
    *("attempts", "prefetched", "claim_owner", "claim_number", "claim_until"),
)


@cache
def _for_one(count: int) -> BuiltStatement:
    """Return what records an event with `count` deliveries. Its values: the columns of the event, and of the run; those
    of _OWN with the number of their delivery. It returns the ids of the event and the deliveries that it made."""
    run, event = ({name: _value(of, name) for name in names} for of, names in ((runs, _OF_RUN), (events, _OF_EVENT)))
    made = [
        {"event_id": event["id"], **{name: _value(deliveries, name, f"_{number}") for name in _OWN}}
        for number in range(count)
    ]
    return BuiltStatement(lambda _: _build(run, event, made))


def _build_for_all() -> Any:
    """Return the same for events and deliveries of any number, with an array for each column; `_of_delivery` is added
    to the names of the deliveries'."""
    run = bulk.given_rows(**{name: runs.c[name] for name in _OF_RUN}).c
    event = bulk.given_rows(**{name: events.c[name] for name in _OF_EVENT}).c
    of_delivery = {f"{name}_of_delivery": deliveries.c[name] for name in ("event_id", *_OWN)}
    made = zip(("event_id", *_OWN), bulk.given_rows(**of_delivery).c, strict=True)
    # What finds submissions may turn the order round, which is that of locks: as Python sorts them.
    order = [sa.collate(run[name], "C") for name in ("source", "run_id")]
    return _build(dict(run), dict(event), [dict(made)], order)


_for_all: Final = BuiltStatement(lambda _: _build_for_all())


def _build(run: _Columns, event: _Columns, made: Sequence[_Columns], order: Sequence[Any] = ()) -> Any:
    """Return the statement that records what is given by these columns. `made`: of deliveries. `order`: of runs."""
    now = _value(events, "recorded_at")
    submitted = sa.exists().where(submissions.c.source == run["source"], submissions.c.run_id == run["run_id"])
    row = {**run, "events": sa.literal_column("1"), "first_seen_at": now, "updated_at": now}
    new = _insert(runs, row, sa.select(*row.values()).where(~submitted).order_by(*order), ("source", "run_id"))
    row = {**event, "recorded_at": now}
    of_new = sa.and_(new.c.source == event["source"], new.c.run_id == event["run_id"])
    recorded = _insert(events, row, sa.select(*row.values()).where(of_new), ("id",), "source", "run_id")
    if not made:
        return sa.select(recorded.c.id)
    of_event = {"source": recorded.c.source, "run_id": recorded.c.run_id}
    times = dict.fromkeys(("due_at", "created_at", "updated_at"), now)
    rows = [{**each, **of_event, **times} for each in made]
    chosen = [sa.select(*each.values()).where(recorded.c.id == each["event_id"]) for each in rows]
    delivered = _insert(deliveries, rows[0], sa.union_all(*chosen) if len(chosen) > 1 else chosen[0], ("id",))
    return sa.union_all(sa.select(recorded.c.id), sa.select(delivered.c.id))


_Columns = Mapping[str, sa.ColumnElement[Any]]


def _insert(table: sa.Table, names: Iterable[str], rows: Any, key: Sequence[str], *more: str) -> Any:
    """Return the INSERT of rows whose `key` is not there, as part of a statement: it returns their key, and `more`."""
    insert = postgresql.insert(table).from_select(list(names), rows)
    insert = insert.on_conflict_do_nothing(index_elements=[table.c[name] for name in key])
    return insert.returning(*(table.c[name] for name in (*key, *more))).cte(f"new_{table.name}")


def _value(table: sa.Table, column: str, number: str = "") -> sa.ColumnElement[Any]:
    """Return the parameter for a column, with its type: in a SELECT the server would take it for text."""
    of = table.c[column].type
    return sa.cast(sa.bindparam(column + number, type_=of), of)
