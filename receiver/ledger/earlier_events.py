"""What earlier events of a run had, for one that is being recorded: their members, and the sinks that they went to.

They are read only when one has more than the new event, which its extent tells without its body.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from receiver.domain import shape
from receiver.domain.deduplication import Facts, says_same
from receiver.domain.extent import Extent, parse_extent
from receiver.domain.parsed_event import completion_of_text
from receiver.domain.run import RunKey, parse
from receiver.ledger.deliveries_by_event import of_events
from receiver.ledger.events import NewEvent
from receiver.ledger.schema import deliveries, events


class EarlierEvents:
    """The events before each event of a batch, in the ledger and in the batch itself."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._runs: dict[str, Mapping[str, Any]] = {}  # completed members, by event id
        self._extents: dict[str, Extent | None] = {}  # by event id: a run's are compared with each new event of it
        self._sinks: dict[str, Collection[str]] = {}  # of the events of this batch, which are not recorded yet

    def add(self, run: Mapping[str, Any], event: NewEvent) -> None:
        """Take note of an event of the batch. `run`: its completed members."""
        self._runs[event.event.id] = run
        self._sinks[event.event.id] = [each.sink for each in event.deliveries]

    def completion(self, run: Mapping[str, Any], facts: Facts, history: Sequence[Facts]) -> dict[str, Any]:
        """Return the members that a completed `run` lacks still and that earlier events of it have.

        `facts`: of the event that tells of `run`. `history`: of those before it, in the order of recording.
        """
        same = self._with_more(facts, [past for past in history if says_same(past, facts)])
        other = self._with_more(facts, [past for past in history if not says_same(past, facts)])
        return shape.completion_of(run, same_result=same, earlier=other) if same or other else {}

    def sinks_told(self, key: RunKey, facts: Facts, history: Sequence[Facts]) -> set[str]:
        """Return the sinks that have a delivery of an event of the run that said the same, however it ended."""
        same = [past.event_id for past in history if says_same(past, facts)]
        told = {sink for event in same for sink in self._sinks.get(event, ())}
        recorded = [(*key, event) for event in same if event not in self._sinks]
        if recorded:
            query = sa.select(deliveries.c.sink).where(of_events(recorded))
            told.update(self._connection.execute(query.distinct()).scalars())
        return told

    def _with_more(self, facts: Facts, history: Sequence[Facts]) -> Mapping[str, Any] | None:
        """Return the members of the fullest event, if it has something that the new one lacks."""
        mine = parse_extent(facts.extent)
        known = [(extent, past) for past in history if (extent := self._extent(past)) is not None]
        if mine is None or not known:
            return None
        extent, fullest = max(known, key=lambda item: (item[0].size, item[1].seq))
        return self._members(fullest.event_id) if extent.exceeds([mine]) else None

    def _extent(self, past: Facts) -> Extent | None:
        if past.event_id not in self._extents:
            self._extents[past.event_id] = parse_extent(past.extent)
        return self._extents[past.event_id]

    def _members(self, event_id: str) -> Mapping[str, Any]:
        if event_id not in self._runs:
            query = sa.select(events.c.body, events.c.completion).where(events.c.id == event_id)
            row = self._connection.execute(query).first()  # none: retention deleted it a moment ago
            known = shape.completed(parse(bytes(row.body)).data, completion_of_text(row.completion)) if row else {}
            self._runs[event_id] = known
        return self._runs[event_id]
