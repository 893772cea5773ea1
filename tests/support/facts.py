"""Facts of made-up events, as they are compared."""

from __future__ import annotations

from collections.abc import Sequence

from receiver.domain.deduplication import Classification, Facts, classify, facts_of
from receiver.domain.extent import Extent, extent_of
from receiver.domain.run import Run

# The extent of an event of which nothing is known.
NOTHING = extent_of({})


def facts(event_id: str, run: Run, seq: int = 0) -> Facts:
    """The facts of an event of which no more is known than its body tells; of its files they tell nothing."""
    return facts_of(event_id, run, run.data, run.data)._replace(seq=seq, extent=NOTHING)


def event(
    says: str = "A",
    at: float | None = 1,
    *,
    attempt: int = 1,
    status: str = "completed",
    pending: bool = False,
    null: bool = False,
    extent: Extent = NOTHING,
) -> Facts:
    """The facts of an event that says this, was modified then, and has so much of its run."""
    final = status in ("completed", "failed", "canceled") and not pending
    return Facts("", attempt, status, pending, final, at, says, extent, null, 0)


def classified(events: Sequence[Facts]) -> list[Classification]:
    """What each event is when it comes after those before it. The nth gets the id "n"."""
    history: list[Facts] = []
    found = []
    for number, each in enumerate(events, 1):
        new = each._replace(event_id=str(number), seq=number)
        found.append(classify(new, list(reversed(history))))
        history.append(new)
    return found
