"""Read claimed deliveries as their owner sends them, with the events that they carry. Changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryState
from receiver.domain.run import Run
from receiver.ledger import dialect
from receiver.ledger.deliveries import links
from receiver.ledger.dialect import unindexed
from receiver.ledger.schema import deliveries, events, runs

# The columns of a delivery that no worker has claimed.
UNCLAIMED: Final[dict[str, Any]] = {"claim_owner": "", "claim_until": None}
# The condition for a claimed delivery; a literal, for the partial index needs it.
SENDING: Final = deliveries.c.state == sa.literal_column(f"'{DeliveryState.SENDING}'")
# The same for deliveries that are found by their ids: on a ledger without statistics PostgreSQL would rather read all
# that is being sent, by the index of states.
IS_SENT: Final = unindexed(deliveries.c.state) == DeliveryState.SENDING

_OF_DELIVERY = (
    *("id", "event_id", "sink", "lane", "route", "attempts", "spent", "after", "source", "run_id"),
    *("tried_at", "due_at"),
)
_OF_EVENT = ("seq", "outcome", "via", "problem", "received_at")


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
    run_events: int = 1  # how many events its run has, this one included
    tried_at: float | None = None  # when its first attempt began, moved by what it waited for us; None if this is it
    due_at: float = 0.0
    event_seq: int = 0  # by which `load_bodies` finds its body; 0 when it is loaded
    receipts: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)  # by sink, of those it waited for
    run: Run | None = None  # what the dispatcher of this process has parsed the body into
    start_by: float = math.inf  # no send starts later, by time.monotonic(): the claim may have lapsed


def delivery_columns() -> list[sa.Column[Any]]:
    """Return the columns of a delivery that `columns` needs."""
    return [deliveries.c[name] for name in _OF_DELIVERY]


def columns(of: Any) -> list[sa.ColumnElement[Any]]:
    """Return what `to_claimed` reads of each delivery, from a join with its event. `of`: the deliveries' columns."""
    return [*(of[name] for name in _OF_DELIVERY), *(events.c[name] for name in _OF_EVENT), _of_run(of)]


def _of_run(of: Any) -> sa.Label[Any]:
    """Return how many events a delivery's run has, and its labels, as one text: a subquery has one column.

    Not a join: as long as PostgreSQL has no statistics of a new ledger, it would read all runs for it.
    """
    its_run = sa.and_(runs.c.source == of.source, runs.c.run_id == of.run_id)
    text = sa.cast(runs.c.events, sa.Text) + sa.literal_column("' '", sa.Text) + runs.c.labels
    return sa.select(text).where(its_run).scalar_subquery().label("run")


def to_claimed(row: Any, now: float, probe: float | None = None) -> Claimed:
    """Return the delivery of a row of `columns`, which a claim takes `now`.

    `probe`: for one that finds out whether a lane is open again, since when it counts as shut.
    """
    tried_at = row.tried_at
    if tried_at is not None:
        # While it was due and no breaker open, it waited for us: the sink was paused, or our workers were stopped.
        tried_at += max(min(probe or now, now) - row.due_at, 0.0)
    count, _, labels = (row.run or "1").partition(" ")  # a body without a run id has no run
    return Claimed(
        **{name: getattr(row, name) for name in ("id", "event_id", "sink", "lane", "route", "spent")},
        **{name: getattr(row, name) for name in ("source", "run_id", "outcome", "via", "problem", "received_at")},
        attempt_number=row.attempts + 1,
        probe=probe is not None,
        labels=_json(labels, {}),
        after=tuple(_json(row.after, ())),
        run_events=int(count),
        tried_at=tried_at,
        due_at=row.due_at,
        event_seq=row.seq,
    )


def _json(text: str | None, empty: Any) -> Any:
    """Return the value of a JSON text; `empty` for one without members, as most are."""
    return json.loads(text) if text and len(text) > len("[]") else empty


# By their numbers, not by their ids, which have an index to be read first.
_BODIES: Final = sa.select(events.c.seq, events.c.body, events.c.completion).where(
    dialect.among_given(events.c.seq, "b_seqs")
)


def load_bodies(connection: sa.Connection, claimed: Sequence[Claimed]) -> list[Claimed]:
    """Load the bodies of claimed deliveries, and the receipts that they waited for, once the claim is committed.

    Leaves out a delivery whose event retention has removed meanwhile.
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
