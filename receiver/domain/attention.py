"""Which states of an active run need a person: paused, or queued or running for too long. Pure."""

from __future__ import annotations

from typing import Final

PAUSED: Final = "paused"
# Statuses of runs that have not ended (Skyvern 1.0.56, RunStatus).
ACTIVE: Final = ("created", "queued", "running", PAUSED)


def needs_report(status: str, age: float, last_status: str | None, stuck_after: float) -> bool:
    """Whether a poll that shows `status` becomes an interim event.

    `age`: seconds since the run was made, or since we first heard of it. `last_status`: the status of the run's newest
    event, or None. `stuck_after`: seconds, see ReconcileConfig. A state is reported once: `last_status` is skipped,
    and one that the run had left is reported when an event names it again.
    """
    if status not in ACTIVE or status == last_status:
        return False
    return status == PAUSED or age > stuck_after or last_status == PAUSED
