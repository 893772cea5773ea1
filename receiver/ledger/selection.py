"""What an action on many deliveries takes: by ids, or all that match a filter.

A selection means the same rows when it is counted, shown and moved: see operations.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from receiver.ledger.deliveries import same_result
from receiver.ledger.lists.filters import Filter, begins, of_deliveries, same_run
from receiver.ledger.schema import deliveries, events, runs


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
        it = selected(replace(self, state=())).add_columns(deliveries.c.state).subquery()
        counted = connection.execute(sa.select(it.c.state, sa.func.count()).group_by(it.c.state))
        return {state: count for state, count in counted}  # noqa: C416 - rows are not pairs for mypy


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


def selected(selection: Selection) -> sa.Select[Any]:
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
