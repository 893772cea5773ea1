"""Facts of made-up events, as they are compared."""

from __future__ import annotations

from receiver.domain.deduplication import Facts, facts_of
from receiver.domain.extent import extent_of
from receiver.domain.run import Run

# The extent of an event of which nothing is known.
NOTHING = extent_of({})


def facts(event_id: str, run: Run, seq: int = 0) -> Facts:
    """The facts of an event of which no more is known than its body tells; of its files they tell nothing."""
    return facts_of(event_id, run, run.data, run.data)._replace(seq=seq, extent=NOTHING)
