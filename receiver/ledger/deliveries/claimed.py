"""Claimed deliveries as their owner reads them, with the events that they carry. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, states_before
from receiver.ledger import dialect
from receiver.ledger.deliveries_by_event import event_of
from receiver.ledger.dialect import unindexed
from receiver.ledger.schema import deliveries, events, lanes, runs

# The columns of a delivery that nobody has claimed.
UNCLAIMED: Final[dict[str, Any]] = {"claim_owner": "", "claim_number": 0, "prefetched": False, "claim_until": None}
# The condition for a claimed delivery; a literal, for the partial index needs it.
SENDING: Final = deliveries.c.state == sa.literal_column(f"'{DeliveryState.SENDING}'")

_OF_DELIVERY = (
    *("id", "event_id", "sink", "lane", "route", "attempts", "spent", "after", "source", "run_id"),
    *("tried_at", "due_at", "created_at"),
)
_OF_EVENT = ("seq", "outcome", "via", "problem", "received_at")


def delivery_columns() -> list[sa.Column[Any]]:
    """Return the columns of a delivery that `columns` needs."""
    return [deliveries.c[name] for name in _OF_DELIVERY]


def columns(of: Any) -> list[sa.ColumnElement[Any]]:
    """Return what is read of each delivery, for `to_claimed`, from a join with its event. `of`: the columns of the
    deliveries, by name."""
    return [
        *(of[name] for name in _OF_DELIVERY),
        *(events.c[name] for name in _OF_EVENT),
        _of_run(of),
    ]


def _of_run(of: Any) -> sa.Label[Any]:
    """Return how many events a delivery's run has, and its labels, as one text: a subquery has one column.

    Not a join: as long as PostgreSQL has no statistics of a new ledger, it would read all runs for it.
    """
    its_run = sa.and_(runs.c.source == of.source, runs.c.run_id == of.run_id)
    told = sa.cast(runs.c.events, sa.Text) + sa.literal_column("' '", sa.Text) + runs.c.labels
    return sa.select(told).where(its_run).scalar_subquery().label("run")


@dataclass(slots=True, eq=False)
class Claimed:
    """A delivery that its owner may send now, with the event it carries."""

    id: str
    event_id: str
    sink: str
    lane: str
    route: str
    attempt_number: int  # of the attempt that this claim allows
    spent: int
    probe: bool
    source: str
    run_id: str
    outcome: str
    via: str
    problem: str
    received_at: float
    labels: Mapping[str, str]
    after: tuple[str, ...]
    # Loaded once the claim is committed; see `load_bodies`.
    body: bytes = b""
    completion: str = ""  # JSON object: members of the run that the body lacks, or ""
    prefetched: bool = False
    run_events: int = 1  # how many events its run has, this one included
    tried_at: float | None = None  # when its first attempt began, moved by what it waited for us; None if this is it
    due_at: float = 0.0
    created_at: float = 0.0
    event_seq: int = 0  # by which `load_bodies` finds its body; 0 when it is loaded


_IS_SENT: Final = unindexed(deliveries.c.state) == DeliveryState.SENDING
_SHUT: Final = sa.func.coalesce(sa.or_(lanes.c.paused, lanes.c.breaker != "closed"), sa.false())
# By their numbers, not by their ids, which have an index to be read first.
_BODIES: Final = sa.select(events.c.seq, events.c.body, events.c.completion).where(
    dialect.among_given(events.c.seq, "b_seqs")
)


def of_claim() -> sa.ColumnElement[bool]:
    """Return the condition that a delivery is of the claim that is given as b_owner and b_number."""
    it = deliveries.c
    return sa.and_(it.claim_owner == sa.bindparam("b_owner"), it.claim_number == sa.bindparam("b_number"))


def may_move(move: DeliveryMove) -> sa.ColumnElement[bool]:
    """Return the condition that a delivery is in a state in which `move` is legal, for those that are found by key: by
    the index of states a new ledger's PostgreSQL would rather read all that is being sent."""
    return sa.or_(*(unindexed(deliveries.c.state) == state for state in states_before(move)))


def of_claims() -> sa.ColumnElement[bool]:
    """Return the condition that a delivery is one of those that `given_claims` gives, of b_owner, and still of the
    claim that is given with it."""
    it = deliveries.c
    named = sa.cast(it.claim_number, sa.Text) + sa.literal_column("' '", sa.Text) + it.id
    return sa.and_(
        dialect.among_given(it.id, "b_ids"),
        it.claim_owner == sa.bindparam("b_owner"),
        dialect.among_given(named, "b_claims"),
    )


def given_claims(owner: str, claimed: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Return the values of `of_claims`. `claimed`: ids of deliveries, each with its claim number."""
    ordered = sorted(claimed)
    claims = [f"{number} {delivery}" for delivery, number in ordered]
    return {"b_ids": [delivery for delivery, _ in ordered], "b_owner": owner, "b_claims": claims}


def to_claimed(row: Any, attempt_number: int, now: float, *, prefetched: bool, probe: float | None = None) -> Claimed:
    """Return the delivery that a row of `columns` and a body tells of, with that body unless it is null.

    `probe`: for one that finds out whether a lane is open again, since when it counts as shut.
    """
    tried_at = row.tried_at
    if tried_at is not None:
        # While it was due and no breaker open, it waited for us: the sink was paused, or our workers were stopped.
        tried_at += max(min(probe or now, now) - row.due_at, 0.0)
    count, _, labels = (row.run or "1").partition(" ")  # a body that tells no run has none
    return Claimed(  # by place, as a claim makes many: by name takes three times as long
        row.id,
        row.event_id,
        row.sink,
        row.lane,
        row.route,
        attempt_number,
        row.spent,
        probe is not None,
        row.source,
        row.run_id,
        row.outcome,
        row.via,
        row.problem,
        row.received_at,
        _json(labels, {}),
        tuple(_json(row.after, ())),
        row.body or b"",
        "",
        prefetched,
        int(count),
        tried_at,
        row.due_at,
        row.created_at,
        0 if row.body is not None else row.seq,
    )


def _json(text: str | None, empty: Any) -> Any:
    """Return what a text of JSON says; `empty` for none, or one that is empty: most are, and are not parsed."""
    return json.loads(text) if text and len(text) > len("[]") else empty


def load_bodies(connection: sa.Connection, claimed: Sequence[Claimed]) -> list[Claimed]:
    """Load the bodies of what was claimed without, once that is committed. Leaves out what is not there any more."""
    wanted = sorted({each.event_seq for each in claimed if each.event_seq})
    if not wanted:
        return list(claimed)
    bodies = {row.seq: row for row in connection.execute(_BODIES, {"b_seqs": wanted})}
    there = [each for each in claimed if not each.event_seq or each.event_seq in bodies]
    for each in there:
        if each.event_seq:
            event = bodies[each.event_seq]
            each.body, each.completion, each.event_seq = event.body, event.completion, 0
    return there


def load_handed_on(
    connection: sa.Connection, owner: str, claim_number: int, ids: Collection[str], now: float
) -> list[Claimed] | None:
    """Return those of the deliveries that are this claim's, with their bodies, by one statement.

    None when the lane of one is paused or shut: then none of them may be sent.
    """
    given = {"b_ids": list(ids), "b_owner": owner, "b_number": claim_number}
    rows = connection.execute(_handed_on(connection.dialect.name), given).all()
    if any(row.shut for row in rows):
        return None
    found = []
    for row in rows:
        each = to_claimed(row, row.attempts, now, prefetched=row.prefetched)
        each.completion = row.completion
        found.append(each)
    return found


@cache
def _handed_on(database: str) -> sa.Select[Any]:
    of_event = event_of(deliveries, on_postgresql=database == "postgresql")
    return (
        sa.select(
            *columns(deliveries.c), deliveries.c.prefetched, events.c.body, events.c.completion, _SHUT.label("shut")
        )
        .select_from(deliveries.join(events, of_event).outerjoin(lanes, lanes.c.lane == deliveries.c.lane))
        .where(dialect.among_given(deliveries.c.id, "b_ids"), _IS_SENT, of_claim())
    )
