"""What an operation takes: the selection, and the queries of it. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove, DeliveryState, states_before
from receiver.ledger.deliveries_by_event import of_event
from receiver.ledger.filters import Filter, begins, in_states, matching_deliveries, matching_events
from receiver.ledger.schema import deliveries, events

# The kinds of operations. A backfill gives a sink old events; the others move deliveries that there are.
REPLAY: Final = "replay"
BACKFILL: Final = "backfill"
CANCEL: Final = "cancel"
RESTORE: Final = "restore"


@dataclass(frozen=True, slots=True)
class Selection(Filter):
    """What an operation takes: deliveries by id, or all that the filter finds. Its limit does not count.

    `delivery_ids`, `event_ids`, `run_ids`: only these, and those of these; of the first two a beginning will do.
    `sinks`: those that exist; deliveries of others are orphaned, and nobody would send them. Empty: not known.
    """

    delivery_ids: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return its JSON, as the ledger keeps it."""
        return json.dumps({name: value for name, value in asdict(self).items() if value and name != "limit"})

    @classmethod
    def from_json(cls, text: str) -> Selection:
        """Return the selection that `to_json` wrote."""
        kept: dict[str, Any] = json.loads(text)
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
        return cls(**fields)

    @property
    def named(self) -> bool:
        """Whether what it takes is named by ids, so that it is little."""
        return bool(self.delivery_ids or self.event_ids or self.run_ids)


def takes(kind: str, selection: Selection, *, force: bool) -> list[DeliveryState]:
    """Return the states of the deliveries that an operation takes. A replay: never one that is queued or under way, one
    that succeeded only by force, and one that waits for its next attempt only when that state was asked for."""
    if kind != REPLAY:
        return states_before(DeliveryMove.CANCEL if kind == CANCEL else DeliveryMove.RESTORE)
    taken = [DeliveryState.DEAD, DeliveryState.DELIVERED] if force else [DeliveryState.DEAD]
    assert set(taken) <= set(states_before(DeliveryMove.REPLAY))
    return [*taken, DeliveryState.WAITING] if DeliveryState.WAITING in selection.state else taken


def _named_ids(selection: Selection) -> sa.CompoundSelect[Any]:
    """Select the ids of the deliveries that are named, or are of one of those: by an index for each kind."""
    it = deliveries.alias("named")
    found = []
    if selection.delivery_ids:
        found.append(sa.select(it.c.id).where(sa.or_(*(begins(it.c.id, each) for each in selection.delivery_ids))))
    if selection.run_ids:
        found.append(sa.select(it.c.id).where(it.c.run_id.in_(selection.run_ids)))
    if selection.event_ids:
        found.append(_ids_of_events(selection.event_ids))
    return sa.union_all(*found)


def _ids_of_events(beginnings: Iterable[str]) -> sa.Select[Any]:
    """Select the ids of the deliveries of events whose ids begin so."""
    it, event = deliveries.alias("of_named"), events.alias("named_event")
    named = sa.or_(*(begins(event.c.id, each) for each in beginnings))
    return sa.select(it.c.id).select_from(event.join(it, of_event(event, it))).where(named)


def taken_ids(kind: str, selection: Selection, *, force: bool) -> sa.Select[Any]:
    """Select the ids of the deliveries that an operation takes."""
    states = [state.value for state in takes(kind, selection, force=force)]
    return _selected_ids(selection).where(*in_states(*states))


def _selected_ids(selection: Selection) -> sa.Select[Any]:
    """Select the ids of the deliveries of a selection, whether or not an operation takes them."""
    it = deliveries.c
    found = matching_deliveries(selection)
    if selection.named:
        found = found.where(it.id.in_(_named_ids(selection)))
    if selection.event_id:
        found = found.where(it.id.in_(_ids_of_events([selection.event_id])))
    if selection.sinks:
        found = found.where(it.sink.in_(selection.sinks))
    return found.with_only_columns(it.id)


def missing_events(selection: Selection, sink: str, begun: float | None = None) -> sa.Select[Any]:
    """The events that a backfill takes: of each new result that `sink` has no delivery of, the last that adds to it,
    whichever of its events is named.

    `begun`: when it was begun. What has been added since takes no result out of it.
    """
    other, later = events.alias("other"), events.alias("later")
    result = sa.func.coalesce(events.c.repeat_of, events.c.id)

    def of_result(event: sa.FromClause) -> sa.ColumnElement[bool]:
        return sa.and_(
            event.c.source == events.c.source,
            event.c.run_id == events.c.run_id,
            sa.func.coalesce(event.c.repeat_of, event.c.id) == result,
        )

    has_one = (
        sa.select(sa.literal(1))
        .select_from(other.join(deliveries, of_event(other)))
        .where(of_result(other), deliveries.c.sink == sink)
        .exists()
    )
    adds = [of_result(later), later.c.disposition == "update", later.c.seq > events.c.seq]
    adds += [] if begun is None else [later.c.recorded_at < begun]
    has_later = sa.select(sa.literal(1)).where(*adds).exists()
    found = sa.select(events.c.seq, events.c.id, events.c.source, events.c.run_id).where(
        events.c.disposition.in_(("new", "update")), ~has_one, ~has_later
    )
    if selection.named:
        named = [events.c.id.in_(_ids_of_results(selection.event_ids))] if selection.event_ids else []
        found = found.where(sa.or_(sa.false(), *named, events.c.run_id.in_(selection.run_ids)))
    return matching_events(found, selection)


def _ids_of_results(beginnings: Iterable[str]) -> sa.Select[Any]:
    """Select the ids of all events that tell a result of which an event's id begins so."""
    named, it = events.alias("named_event"), events.alias("of_its_result")
    of_run = sa.and_(it.c.source == named.c.source, it.c.run_id == named.c.run_id)
    alike = sa.func.coalesce(it.c.repeat_of, it.c.id) == sa.func.coalesce(named.c.repeat_of, named.c.id)
    chosen = sa.or_(*(begins(named.c.id, each) for each in beginnings))
    return sa.select(it.c.id).select_from(named.join(it, sa.and_(of_run, alike))).where(chosen)


def _taken(kind: str, selection: Selection, sink: str, *, force: bool) -> sa.Select[Any]:
    return missing_events(selection, sink) if kind == BACKFILL else taken_ids(kind, selection, force=force)


def count(connection: sa.Connection, kind: str, selection: Selection, sink: str = "", *, force: bool = False) -> int:
    """Count the deliveries that the operation would move now."""
    query = _taken(kind, selection, sink, force=force)
    return connection.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()


def count_states(connection: sa.Connection, selection: Selection) -> dict[str, int]:
    """Count the deliveries that a selection would have in each state, if it asked for none."""
    it = _selected_ids(replace(selection, state=())).add_columns(deliveries.c.state).subquery()
    return {row[0]: row[1] for row in connection.execute(sa.select(it.c.state, sa.func.count()).group_by(it.c.state))}


def examples(
    connection: sa.Connection, kind: str, selection: Selection, limit: int, sink: str = "", *, force: bool = False
) -> list[dict[str, Any]]:
    """Return the first few of what the operation would take now, by id: deliveries, or for a backfill events."""
    taken = _taken(kind, selection, sink, force=force)
    it, event = deliveries.c, events.c
    if kind == BACKFILL:
        names = (event.id, event.source, event.run_id, event.outcome.label("status"))
        query = taken.with_only_columns(*names).order_by(event.seq)
    else:
        query = taken.with_only_columns(it.id, it.source, it.run_id, it.sink, it.state, it.reason).order_by(it.id)
    return [dict(row._mapping) for row in connection.execute(query.limit(limit))]
