"""What an action on many deliveries takes: by ids, or all that match a filter.

A selection means the same rows when it is counted, shown and moved: see actions.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, states_before
from receiver.ledger.deliveries import same_result
from receiver.ledger.filters import Filter, begins, of_deliveries, same_run
from receiver.ledger.schema import deliveries, events, runs

# The kinds of operations. A move gives a sink the deliveries of a removed one, and a move back returns only these; the
# others change the state of deliveries.
REPLAY: Final = "replay"
CANCEL: Final = "cancel"
MOVE: Final = "move"
MOVE_BACK: Final = "move_back"


@dataclass(frozen=True, slots=True)
class Selection(Filter):
    """What an operation selects: deliveries by id, or all that match the filter.

    `delivery_ids`, `event_ids`, `run_ids`: only these deliveries, or those of these events or runs; the first two may
    be prefixes. `sinks`: existing sinks, since deliveries of others are orphaned; empty if unknown.
    """

    delivery_ids: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the selection as JSON, as the ledger stores it."""
        return json.dumps({name: value for name, value in asdict(self).items() if value})

    @classmethod
    def from_json(cls, text: str) -> Selection:
        """Return the selection that `to_json` wrote."""
        kept: dict[str, Any] = json.loads(text)
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        return cls(**fields)

    @property
    def has_ids(self) -> bool:
        """Whether it selects by ids, and so only a few deliveries."""
        return bool(self.delivery_ids or self.event_ids or self.run_ids)

    def by_state(self, connection: sa.Connection) -> dict[str, int]:
        """Count its deliveries by state, ignoring the states that it requests."""
        it = _selected(replace(self, state=())).add_columns(deliveries.c.state).subquery()
        counted = connection.execute(sa.select(it.c.state, sa.func.count()).group_by(it.c.state))
        return {state: count for state, count in counted}  # noqa: C416 - rows are not pairs for mypy


@dataclass(frozen=True, slots=True)
class Action:
    """What to do with a selection. `sink`: the target of a move. `force`: take delivered ones, too.

    `rate`: deliveries a second, 0 for no limit.
    """

    kind: str
    selection: Selection
    sink: str = ""
    force: bool = False
    rate: float = 0.0

    @property
    def states(self) -> list[DeliveryState]:
        """The states of the deliveries that it selects.

        A replay skips queued deliveries and those being sent. It takes delivered ones only by force, and cancelled ones
        and those waiting for their next attempt only if that state was requested.
        """
        if self.kind in (MOVE, MOVE_BACK):
            kept = {DeliveryState.SENDING, *(() if self.force else (DeliveryState.DELIVERED,))}
            return [state for state in DeliveryState if state not in kept]
        if self.kind == CANCEL:
            return states_before(DeliveryMove.CANCEL)
        asked = (state for state in (DeliveryState.WAITING, DeliveryState.CANCELLED) if state in self.selection.state)
        return [DeliveryState.DEAD, *([DeliveryState.DELIVERED] if self.force else []), *asked]

    def taken(self) -> sa.Select[Any]:
        """Select its deliveries."""
        return _selected(self.selection).where(deliveries.c.state.in_([state.value for state in self.states]))

    def count(self, connection: sa.Connection) -> int:
        """Count what it would select now."""
        return connection.execute(sa.select(sa.func.count()).select_from(self.taken().subquery())).scalar_one()

    def by_sink(self, connection: sa.Connection) -> dict[str, int]:
        """Count by sink what it would select now."""
        it = self.taken().with_only_columns(deliveries.c.sink).subquery()
        return {row[0]: row[1] for row in connection.execute(sa.select(it.c.sink, sa.func.count()).group_by(it.c.sink))}

    def examples(self, connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
        """Return the first deliveries that it would select now."""
        it = deliveries.c
        names = (it.id, it.source, it.run_id, it.sink, it.state, it.reason)
        query = self.taken().with_only_columns(*names).order_by(it.id)
        return [dict(row._mapping) for row in connection.execute(query.limit(limit))]


def _named_ids(selection: Selection) -> sa.CompoundSelect[Any]:
    """Select the ids of the named deliveries and of those of named runs and events, by one index for each kind."""
    it = deliveries.alias("named")
    found = []
    if selection.delivery_ids:
        found.append(sa.select(it.c.id).where(_begin(it.c.id, selection.delivery_ids)))
    if selection.run_ids:
        found.append(sa.select(it.c.id).where(it.c.run_id.in_(selection.run_ids)))
    if selection.event_ids:
        found.append(_ids_of_events(selection.event_ids))
    return sa.union_all(*found)


def _begin(column: sa.ColumnElement[Any], beginnings: Iterable[str]) -> sa.ColumnElement[bool]:
    return sa.or_(sa.false(), *(begins(column, each) for each in beginnings))


def _ids_of_events(beginnings: Iterable[str]) -> sa.Select[Any]:
    """Select the ids of the deliveries of events whose ids have one of these prefixes."""
    it, event = deliveries.alias("of_named"), events.alias("named_event")
    its = event.join(it, it.c.event_id == event.c.id)
    return sa.select(it.c.id).select_from(its).where(_begin(event.c.id, beginnings))


def _selected(selection: Selection) -> sa.Select[Any]:
    """Select the ids of the deliveries of a selection, whether or not an operation takes them."""
    it = deliveries.c
    found = sa.select(it.id).where(*of_deliveries(selection))
    if selection.has_ids:
        found = found.where(it.id.in_(_named_ids(selection)))
    if selection.event_id:
        found = found.where(it.id.in_(_ids_of_events([selection.event_id])))
    if selection.sinks:
        found = found.where(it.sink.in_(selection.sinks))
    erased = sa.select(runs.c.run_id).where(*same_run(runs, deliveries), runs.c.erased_at.is_not(None)).exists()
    return found.where(~erased)


def of_named_events(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    """Return the conditions of the events that a selection names, by one index for each kind of id.

    Any event of a result stands for all of them.
    """
    if not isinstance(wanted, Selection) or not wanted.has_ids:
        return []
    named, it = events.alias("named_event"), events.alias("of_its_result")
    of_results = sa.select(it.c.seq).select_from(named.join(it, same_result.same(it, named)))
    of_results = of_results.where(_begin(named.c.id, wanted.event_ids))
    of_runs = sa.select(it.c.seq).where(it.c.run_id.in_(wanted.run_ids))
    return [events.c.seq.in_(sa.union_all(of_results, of_runs))]
