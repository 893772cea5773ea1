"""Read claimed deliveries with their events, as their owner sends them. Changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.domain.run import Run
from receiver.domain.time_limits import START_WITHIN
from receiver.ledger.database import dialect
from receiver.ledger.deliveries import links
from receiver.ledger.schema import deliveries, events, in_state, runs

# The columns of a delivery that no worker has claimed.
UNCLAIMED: Final[dict[str, Any]] = {"claim_owner": "", "claim_until": None}
# The condition for a claimed delivery.
SENDING: Final = in_state(DeliveryState.SENDING)

_OF_DELIVERY = (
    *("id", "event_id", "sink", "lane", "route", "attempts", "spent", "after", "source", "run_id"),
    *("tried_at", "due_at"),
)
_OF_EVENT = ("seq", "outcome", "via", "problem", "received_at")


@dataclass(slots=True, eq=False)
class Claimed:
    """A delivery that its owner may send now, with its event."""

    id: str
    event_id: str
    sink: str
    lane: str
    route: str
    attempt_number: int  # number of the attempt that this claim allows
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
    tried_at: float | None = None  # start of its first attempt, plus waits for Runhook; None: this is it
    due_at: float = 0.0
    event_seq: int = 0  # key of its body for `load_bodies`; 0: loaded
    receipts: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)  # by sink that it waited for
    run: Run | None = None  # the body, as parsed by this process's dispatcher
    start_by: float = math.inf  # latest start of a send, by the ledger's clock, as the claim lapses


def delivery_columns() -> list[sa.Column[Any]]:
    """Return the columns of the deliveries table that `columns` needs."""
    return [deliveries.c[name] for name in _OF_DELIVERY]


def columns(of: Any) -> list[sa.ColumnElement[Any]]:
    """Return the columns for `to_claimed`, from a join of deliveries with events. `of`: the deliveries' columns."""
    return [*(of[name] for name in _OF_DELIVERY), *(events.c[name] for name in _OF_EVENT), _labels(of)]


def _labels(of: Any) -> sa.Label[Any]:
    """Return the labels of a delivery's run. A join would read all runs, while PostgreSQL has no statistics of a new
    ledger."""
    its_run = sa.and_(runs.c.source == of.source, runs.c.run_id == of.run_id)
    return sa.select(runs.c.labels).where(its_run).scalar_subquery().label("labels")


def to_claimed(row: Any, now: float, probe: float | None = None) -> Claimed:
    """Return the delivery of a row of `columns`, claimed `now`.

    `probe`: for the probe of a shut lane, the time since when the lane counts as shut.
    """
    tried_at = row.tried_at
    if tried_at is not None:
        # While it was due and its breaker closed, it waited for Runhook: the sink was paused, or workers were stopped.
        tried_at += max(min(probe or now, now) - row.due_at, 0.0)
    return Claimed(
        **{name: getattr(row, name) for name in ("id", "event_id", "sink", "lane", "route", "spent")},
        **{name: getattr(row, name) for name in ("source", "run_id", "outcome", "via", "problem", "received_at")},
        attempt_number=row.attempts + 1,
        probe=probe is not None,
        labels=_json(row.labels, {}),  # null for a body without a run id
        after=tuple(_json(row.after, ())),
        tried_at=tried_at,
        due_at=row.due_at,
        event_seq=row.seq,
        start_by=now + START_WITHIN,
    )


def _json(text: str | None, empty: Any) -> Any:
    """Return the value of a JSON text; `empty` for an empty one, which is the common case."""
    return json.loads(text) if text and len(text) > len("[]") else empty


# By row numbers, since reading by ids needs another index first.
_BODIES: Final = sa.select(events.c.seq, events.c.body, events.c.completion).where(
    dialect.among_given(events.c.seq, "b_seqs")
)


def load_bodies(connection: sa.Connection, claimed: Sequence[Claimed]) -> list[Claimed]:
    """Load the bodies of claimed deliveries, and the receipts that they waited for, after the claim is committed.

    Leaves out deliveries whose event was removed by retention meanwhile.
    """
    wanted = sorted({each.event_seq for each in claimed if each.event_seq})
    rows = connection.execute(_BODIES, {"b_seqs": wanted}) if wanted else ()
    bodies = {row.seq: row for row in rows}
    found = [each for each in claimed if not each.event_seq or each.event_seq in bodies]
    for each in found:
        if each.event_seq:
            event = bodies[each.event_seq]
            each.body, each.completion, each.event_seq = event.body, event.completion, 0
        if each.after:
            each.receipts = links.receipts(connection, each.event_id, each.after)
    return found
