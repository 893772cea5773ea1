"""The events that the ledger has of runs, with the facts that tell whether another event is a repeat.

Most runs have one event, so that is recorded without what only comparing needs. Once there is another, it is computed
of the body as it was recorded, each time: few runs have a third, and so events are written once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain import shape
from receiver.domain.deduplication import Facts, says_same
from receiver.domain.extent import Extent, parse_extent
from receiver.domain.parsed_event import completion_of_text, recorded_facts
from receiver.domain.run import RunKey, parse
from receiver.ledger import dialect
from receiver.ledger.schema import deliveries, events

# Bytes of the largest body that is read along with the rest. A larger one is read by itself, so that those of a whole
# batch's runs are never in memory together.
READ_ALONG: Final = 128 << 10

log = logging.getLogger("runhook.dispatch")


class PastEvent(NamedTuple):
    """An event that is recorded. `facts`: whole; None for one that is compared with nothing."""

    key: RunKey
    id: str
    facts: Facts | None


def of_runs(connection: sa.Connection, keys: Iterable[RunKey]) -> Iterator[PastEvent]:
    """Yield the events of runs that are locked, each run's in the order of recording."""
    asked = list(keys)
    for row in connection.execute(_OF_RUNS.where(dialect.of_runs(events, asked))).all() if asked else ():
        facts: Facts | None = None
        if row.disposition not in _NOT_COMPARED:
            facts = Facts(*row[-len(Facts._fields) :])
            if not facts.whole and (facts := _whole(connection, facts, row)) is None:
                continue  # retention has deleted it a moment ago
        yield PastEvent((row.source, row.run_id), row.id, facts)


def _whole(connection: sa.Connection, facts: Facts, row: Any) -> Facts | None:
    """Return facts made whole, of the row's body or, where that is too large, of the one in the ledger."""
    body = row.body
    if body is None:
        body = connection.execute(sa.select(events.c.body).where(events.c.id == facts.event_id)).scalar()
        if body is None:
            return None
    try:
        return recorded_facts(facts, row.status, bytes(body), row.completion)
    except Exception as error:  # of our own code: no fault of the next event
        log.error("dispatch.not_compared event=%s", facts.event_id, exc_info=error)
        return facts._replace(fingerprint=facts.event_id)  # what no other event says


_NOT_COMPARED: Final = ("unreadable", "test")
_MUST_BE_READ: Final = sa.and_(
    events.c.fingerprint == sa.literal_column("''"),
    events.c.disposition.not_in([sa.literal_column(f"'{each}'") for each in _NOT_COMPARED]),
    sa.func.length(events.c.body) <= sa.literal_column(str(READ_ALONG)),
)
# The events of runs of one source, at the end the columns of Facts.
_OF_RUNS: Final = sa.select(
    *(events.c.source, events.c.run_id, events.c.disposition, events.c.status, events.c.completion),
    sa.case((_MUST_BE_READ, events.c.body)).label("body"),
    *(events.c["id" if name == "event_id" else name] for name in Facts._fields),
).order_by(events.c.seq)


class EarlierEvents:
    """The events before each event of a batch, in the ledger and in the batch itself: their members, and their sinks.

    Bodies are read only when an earlier event has more than the new one, which its extent says.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._runs: dict[str, Mapping[str, Any]] = {}  # completed members, by event id
        self._extents: dict[str, Extent | None] = {}  # by event id: a run's are compared with each new event of it
        self._sinks: dict[str, Collection[str]] = {}  # of the events of this batch, which are not recorded yet

    def add(self, event_id: str, run: Mapping[str, Any], sinks: Collection[str]) -> None:
        """Add an event of the batch. `run`: its completed members; `sinks`: those that it goes to."""
        self._runs[event_id] = run
        self._sinks[event_id] = sinks

    def completion(self, run: Mapping[str, Any], facts: Facts, history: Sequence[Facts]) -> dict[str, Any]:
        """Return the members that a completed `run` lacks still and that earlier events of it have.

        `facts`: of the event that tells of `run`. `history`: of those before it, in the order of recording.
        """
        same = self._with_more(facts, [past for past in history if says_same(past, facts)])
        other = self._with_more(facts, [past for past in history if not says_same(past, facts)])
        return shape.completion_of(run, same_result=same, earlier=other) if same or other else {}

    def sinks_told(self, facts: Facts, history: Sequence[Facts]) -> set[str]:
        """Return the sinks that have a delivery of an event of the run that said the same, however it ended."""
        same = [past.event_id for past in history if says_same(past, facts)]
        told = {sink for event in same for sink in self._sinks.get(event, ())}
        recorded = [event for event in same if event not in self._sinks]
        if recorded:
            query = sa.select(deliveries.c.sink).where(dialect.among(deliveries.c.event_id, recorded))
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
