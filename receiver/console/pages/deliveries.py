"""Deliveries: what is done with them, from each page that shows some."""

from __future__ import annotations

from typing import Final

from receiver.api.actions.chosen import TakenResult
from receiver.api.actions.deliveries import (
    BACKFILL_SINK,
    CANCEL_DELIVERIES,
    REPLAY_DELIVERIES,
    RESTORE_DELIVERIES,
    RESUBMIT_RUNS,
)
from receiver.console.action import ConsoleAction


def _taken(result: TakenResult) -> str:
    """Return what was begun, and where it is worked off."""
    things = "1 is" if result.count == 1 else f"{result.count:,} are"
    if result.operation is None or result.operation.state == "done":
        return f"{result.count:,} done."
    return f"{things} worked off by operation {result.operation.id}."


ACTIONS: Final = (
    ConsoleAction(REPLAY_DELIVERIES, "Replay", _taken, "Send these again, under the same idempotency keys?"),
    ConsoleAction(CANCEL_DELIVERIES, "Cancel", _taken, "Cancel these deliveries? They can be brought back."),
    ConsoleAction(RESTORE_DELIVERIES, "Bring back", _taken, "Bring these back? They are due at once."),
    ConsoleAction(BACKFILL_SINK, "Backfill", _taken, "Give the sink these results?"),
    ConsoleAction(RESUBMIT_RUNS, "Submit again", _taken, "Submit these failed runs again?"),
)
