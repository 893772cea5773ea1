"""The events that the ledger has of runs, with the facts that tell whether another event is a repeat.

Most runs have one event, so that is recorded without what only comparing needs. Once there is another, it is computed
of the body as it was recorded, each time: few runs have a third, and so events are written once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.deduplication import Facts
from receiver.domain.parsed_event import recorded_facts
from receiver.domain.run import RunKey
from receiver.ledger import dialect
from receiver.ledger.schema import events

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
    asked = [{"b_source": source, "b_run_ids": ids} for source, ids in dialect.by_source(keys)]
    for row in chain.from_iterable(connection.execute(_OF_RUNS, given).all() for given in asked):
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
_OF_RUNS: Final = (
    sa.select(
        *(events.c.source, events.c.run_id, events.c.disposition, events.c.status, events.c.completion),
        sa.case((_MUST_BE_READ, events.c.body)).label("body"),
        *(events.c["id" if name == "event_id" else name] for name in Facts._fields),
    )
    .where(dialect.of_given_runs(events))
    .order_by(events.c.seq)
)
