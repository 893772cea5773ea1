"""Read the recorded events of runs, with the facts that decide whether another event is a repeat."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain import shape
from receiver.domain.deduplication import Facts, says_same
from receiver.domain.extent import parse_extent
from receiver.domain.parsed_event import completion_of_text
from receiver.domain.run import RunKey, parse
from receiver.ledger import dialect
from receiver.ledger.schema import deliveries, events


class PastEvent(NamedTuple):
    """A recorded event. `facts`: None if the event is never compared, as that of an erased run."""

    key: RunKey
    id: str
    facts: Facts | None


def of_runs(connection: sa.Connection, keys: Iterable[RunKey]) -> Iterator[PastEvent]:
    """Yield the events of locked runs, for each run in the order of recording."""
    asked = list(keys)
    for row in connection.execute(_OF_RUNS.where(dialect.of_runs(events, asked))).all() if asked else ():
        facts = None
        if row.extent and row.disposition not in ("unreadable", "test"):
            facts = Facts(*row[-len(Facts._fields) :])._replace(extent=parse_extent(row.extent))
        yield PastEvent((row.source, row.run_id), row.id, facts)


# The events of runs of one source. The last columns are those of Facts.
_OF_RUNS: Final = sa.select(
    *(events.c.source, events.c.run_id, events.c.disposition),
    *(events.c["id" if name == "event_id" else name] for name in Facts._fields),
).order_by(events.c.seq)


class EarlierEvents:
    """The members and sinks of the events before each event of a batch, from the ledger and the batch itself.

    Bodies are read only if an earlier event has more members than the new one, according to its extent.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._runs: dict[str, Mapping[str, Any]] = {}  # completed members, by event id
        self._sinks: dict[str, Collection[str]] = {}  # of this batch's events, which are not recorded yet

    def add(self, event_id: str, run: Mapping[str, Any], sinks: Collection[str]) -> None:
        """Add an event of the batch. `run`: its completed members. `sinks`: the sinks of its deliveries."""
        self._runs[event_id] = run
        self._sinks[event_id] = sinks

    def completion(self, run: Mapping[str, Any], facts: Facts, history: Sequence[Facts]) -> dict[str, Any]:
        """Return the members of earlier events that a completed `run` still lacks.

        `facts`: of the event with `run`. `history`: of the earlier events, in the order of recording.
        """
        same = self._with_more(facts, [past for past in history if says_same(past, facts)])
        other = self._with_more(facts, [past for past in history if not says_same(past, facts)])
        return shape.completion_of(run, same_result=same, earlier=other) if same or other else {}

    def sinks_told(self, facts: Facts, history: Sequence[Facts]) -> set[str]:
        """Return the sinks with a delivery, in any state, of an event of the run with the same result."""
        same = [past.event_id for past in history if says_same(past, facts)]
        told = {sink for event in same for sink in self._sinks.get(event, ())}
        recorded = [event for event in same if event not in self._sinks]
        if recorded:
            query = sa.select(deliveries.c.sink).where(dialect.among(deliveries.c.event_id, recorded))
            told.update(self._connection.execute(query.distinct()).scalars())
        return told

    def _with_more(self, facts: Facts, history: Sequence[Facts]) -> Mapping[str, Any] | None:
        """Return the members of the fullest event, if it has some that the new one lacks."""
        fullest = max(history, key=lambda past: (past.extent.size, past.seq), default=None)
        if fullest is None or not fullest.extent.exceeds([facts.extent]):
            return None
        return self._members(fullest.event_id)

    def _members(self, event_id: str) -> Mapping[str, Any]:
        if event_id not in self._runs:
            query = sa.select(events.c.body, events.c.completion).where(events.c.id == event_id)
            row = self._connection.execute(query).first()  # missing if retention has just deleted it
            known = shape.completed(parse(bytes(row.body)).data, completion_of_text(row.completion)) if row else {}
            self._runs[event_id] = known
        return self._runs[event_id]
