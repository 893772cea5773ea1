"""Recording events whose runs are new to the ledger, and were not submitted through us: in one request.

Most are such, and of them nothing need be known before they are decided about. So they are decided first, and the
statement that records one says when it may: it writes nothing for a run that is there, or that has a submission. What
it did not write is recorded as all others are, by events.py: the runs locked first.

Locks are taken in an order that fits that one: runs, sorted; and under each run, its event and its deliveries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from receiver.ledger.deliveries import creation
from receiver.ledger.deliveries.creation import ClaimAtOnce
from receiver.ledger.events import STATUS, NewEvent, Written, delivery_rows, event_row, status
from receiver.ledger.requests import Asked, BuiltStatement
from receiver.ledger.schema import deliveries, events, runs, submissions

# Events of one request: each has a statement of its own, and of more than these one for all costs less.
MOST: Final = 4


def insertions(
    batch: Sequence[NewEvent], now: float, claims: Mapping[str, ClaimAtOnce], due_at: Mapping[str, float]
) -> list[Asked]:
    """Return what records those of the events whose run is new and has no submission.

    `batch` is in the order of `key`; each is the only event of its run, readable, and gives the run its status.
    `claims`: by sink, those with which deliveries are made that wait for nothing. `due_at`: by event id, when Skyvern
    is asked for the run once more.
    """
    return [_insertion(item, now, claims, due_at.get(item.event.id)) for item in batch]


def written(batch: Sequence[NewEvent], asked: Sequence[Asked], found: Sequence[Sequence[Any]]) -> Written:
    """Return what was recorded of `batch`. `asked`: its `insertions`; `found`: the rows of each, and of others."""
    recorded, ids = [], set()
    for item, (_, values), rows in zip(batch, asked, found, strict=False):
        if rows:
            recorded.append(item)
            if rows[0].deliveries == len(item.deliveries):
                ids |= {values[f"id_{number}"] for number in range(len(item.deliveries))}
    return Written(recorded, ids, found[len(asked) :])


def _insertion(item: NewEvent, now: float, claims: Mapping[str, ClaimAtOnce], due_at: float | None) -> Asked:
    values = {**status(item.event, item.run), **event_row(item, now), "due_at": due_at}
    for number, row in enumerate(delivery_rows([item], now, claims)):
        whole = creation.with_claim(row)
        values |= {f"{name}_{number}": whole[name] for name in _OWN}
    return _statement(len(item.deliveries)).with_values(**values)


# Columns of a delivery that differ from those of its event.
_OWN: Final = (
    *("id", "sink", "lane", "route", "after", "state"),
    *("attempts", "prefetched", "claim_owner", "claim_number", "claim_until"),
)


@cache
def _statement(count: int) -> BuiltStatement:
    """Return what records an event with `count` deliveries. Its values: the columns of the event, and of the run; those
    of _OWN with the number of their delivery. It returns a row when it was recorded: how many deliveries were made."""
    return BuiltStatement(lambda _: _build(count))


def _build(count: int) -> Any:
    of_run = {name: _value(runs, name) for name in (*STATUS, "due_at")} | {"events": sa.literal_column("1")}
    of_run |= dict.fromkeys(("first_seen_at", "updated_at"), _value(events, "recorded_at"))
    submitted = sa.exists().where(submissions.c.source == of_run["source"], submissions.c.run_id == of_run["run_id"])
    made = (
        postgresql.insert(runs)
        .from_select(list(of_run), sa.select(*of_run.values()).where(~submitted))
        .on_conflict_do_nothing(index_elements=[runs.c.source, runs.c.run_id])
        .returning(runs.c.run_id)
        .cte("made")
    )
    of_event = {it.name: _value(events, it.name) for it in events.c if it is not events.c.seq}
    recorded = (
        postgresql.insert(events)
        .from_select(list(of_event), sa.select(*of_event.values()).select_from(made))
        .on_conflict_do_nothing(index_elements=[events.c.id])
        .returning(events.c.id)
        .cte("recorded")
    )
    if not count:
        return sa.select(sa.literal_column("0").label("deliveries")).select_from(recorded)
    common = {"event_id": of_event["id"], "source": of_run["source"], "run_id": of_run["run_id"]}
    common |= dict.fromkeys(("due_at", "created_at", "updated_at"), of_event["recorded_at"])
    rows = [{**common, **{name: _value(deliveries, name, f"_{number}") for name in _OWN}} for number in range(count)]
    selected = [sa.select(*row.values()).select_from(recorded) for row in rows]
    delivered = (
        postgresql.insert(deliveries)
        .from_select(list(rows[0]), sa.union_all(*selected) if count > 1 else selected[0])
        .on_conflict_do_nothing(index_elements=[deliveries.c.id])
        .returning(deliveries.c.id)
        .cte("delivered")
    )
    number = sa.select(sa.func.count()).select_from(delivered).scalar_subquery()
    return sa.select(number.label("deliveries")).select_from(recorded)


def _value(table: sa.Table, column: str, number: str = "") -> sa.ColumnElement[Any]:
    """Return the parameter for a column, with its type: in a SELECT the server would take it for text."""
    of = table.c[column].type
    return sa.cast(sa.bindparam(column + number, type_=of), of)
