"""Claimed deliveries as their owner reads them, with the events that they carry. Changes nothing."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.ledger import bulk
from receiver.ledger.schema import deliveries, events, lanes, runs

# The columns of a delivery that nobody has claimed.
UNCLAIMED: Final[dict[str, Any]] = {"claim_owner": "", "claim_number": 0, "prefetched": False, "claim_until": None}
# The condition for a claimed delivery; a literal, for the partial index needs it.
SENDING: Final = deliveries.c.state == sa.literal_column(f"'{DeliveryState.SENDING}'")

_OF_DELIVERY = (
    *("id", "event_id", "sink", "lane", "route", "spent", "after", "source", "run_id"),
    *("prefetched", "tried_at", "due_at"),
)
_OF_EVENT = ("outcome", "via", "problem", "received_at")
_FIELDS = (*_OF_DELIVERY, *_OF_EVENT, "attempt_number", "labels", "run_events")


def _of_run(column: sa.Column[Any]) -> sa.ScalarSelect[Any]:
    """Return a column of a delivery's run, looked up: as long as PostgreSQL has no statistics of a new ledger, it would
    read all runs for a join."""
    its_run = sa.and_(runs.c.source == deliveries.c.source, runs.c.run_id == deliveries.c.run_id)
    return sa.select(column).where(its_run).scalar_subquery()


_COLUMNS = (
    *(deliveries.c[name] for name in _OF_DELIVERY),
    *(events.c[name] for name in _OF_EVENT),
    *(deliveries.c.attempts, _of_run(runs.c.labels), _of_run(runs.c.events)),
)
_WITH_EVENT = deliveries.join(events, events.c.id == deliveries.c.event_id)


@dataclass(frozen=True, slots=True)
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
    body: bytes  # b"" until it is loaded
    labels: Mapping[str, str]
    after: tuple[str, ...]
    completion: str = ""  # JSON object: members of the run that the body lacks, or ""; loaded with the body
    prefetched: bool = False
    run_events: int = 1  # how many events its run has, this one included
    tried_at: float | None = None  # when its first attempt began, moved by what it waited for us; None if this is it
    due_at: float = 0.0


class _Statements:
    """The queries, built once: that costs more than to run them. Their parameters begin with b_."""

    def __init__(self, *, postgresql: bool) -> None:
        those = bulk.among_given(postgresql, deliveries.c.id, "b_ids")
        self.load = sa.select(*_COLUMNS).select_from(_WITH_EVENT).where(those)
        self.bodies = sa.select(events.c.id, events.c.body, events.c.completion)
        self.bodies = self.bodies.where(bulk.among_given(postgresql, events.c.id, "b_ids"))
        shut = sa.or_(lanes.c.paused, lanes.c.breaker != "closed")
        self.handed_on = (
            sa.select(*_COLUMNS, events.c.body, events.c.completion, sa.func.coalesce(shut, sa.false()))
            .select_from(_WITH_EVENT.outerjoin(lanes, lanes.c.lane == deliveries.c.lane))
            .where(those, SENDING)
            .where(deliveries.c.claim_owner == sa.bindparam("b_owner"))
            .where(deliveries.c.claim_number == sa.bindparam("b_number"))
        )


@functools.cache
def _statements(postgresql: bool) -> _Statements:
    return _Statements(postgresql=postgresql)


def load(connection: sa.Connection, ids: Sequence[str], probes: Mapping[str, float], now: float) -> list[Claimed]:
    """Return the deliveries with these ids, which were just claimed, in that order and without bodies.

    `probes`: those that find out whether a lane is open again, with since when it counts as shut.
    """
    rows = connection.execute(_statements(connection.dialect.name == "postgresql").load, {"b_ids": list(ids)})
    found = {each.id: each for each in (_claimed(row, probes, now) for row in rows)}
    return [found[each] for each in ids if each in found]


def _claimed(columns: Sequence[Any], probes: Mapping[str, float], now: float) -> Claimed:
    fields = dict(zip(_FIELDS, columns, strict=True))
    fields["after"] = tuple(json.loads(fields["after"]))
    fields["labels"] = json.loads(fields["labels"] or "{}")
    fields["run_events"] = fields["run_events"] or 1  # a body that tells no run has none
    if fields["tried_at"] is not None:
        # While it was due and no breaker open, it waited for us: the sink was paused, or our workers were stopped.
        fields["tried_at"] += max(min(probes.get(fields["id"]) or now, now) - fields["due_at"], 0.0)
    return Claimed(**fields, body=b"", probe=fields["id"] in probes)


def load_bodies(connection: sa.Connection, claimed: Sequence[Claimed]) -> list[Claimed]:
    """Return what was claimed with its bodies, once that is committed. Leaves out what is not there any more."""
    wanted = {"b_ids": sorted({each.event_id for each in claimed})}
    found = connection.execute(_statements(connection.dialect.name == "postgresql").bodies, wanted)
    bodies = {row.id: (bytes(row.body), row.completion) for row in found}
    return [
        replace(each, body=bodies[each.event_id][0], completion=bodies[each.event_id][1])
        for each in claimed
        if each.event_id in bodies
    ]


def load_handed_on(
    connection: sa.Connection, owner: str, claim_number: int, ids: Collection[str], now: float
) -> list[Claimed] | None:
    """Return those of the deliveries that are this claim's, with their bodies, by one statement.

    None when the lane of one is paused or shut: then none of them may be sent.
    """
    given = {"b_ids": list(ids), "b_owner": owner, "b_number": claim_number}
    rows = connection.execute(_statements(connection.dialect.name == "postgresql").handed_on, given).all()
    if any(shut for *_, shut in rows):
        return None
    return [
        replace(_claimed(columns, {}, now), body=bytes(body), completion=completion)
        for *columns, body, completion, _ in rows
    ]
