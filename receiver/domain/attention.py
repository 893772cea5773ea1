"""Which states of a run that goes on need a person: paused, or queued or running for far too long. Pure."""

from __future__ import annotations

from typing import Final

PAUSED: Final = "paused"
# Statuses of runs that have not ended (Skyvern 1.0.56, RunStatus).
ACTIVE: Final = ("created", "queued", "running", PAUSED)


def needs_telling(status: str, age: float, known: str | None, stuck_after: float) -> bool:
    """Whether a poll that shows `status` becomes an interim event.

    `age`: seconds since the run was made, or since we first heard of it. `known`: the status that the run's newest
    event says; None when there is none. `stuck_after`: seconds, see ReconcileConfig. A state is told once: what is
    known already is not told, and one that has been left is told when an event says that it is the present one.
    """
    if status not in ACTIVE or status == known:
        return False
    return status == PAUSED or age > stuck_after or known == PAUSED
