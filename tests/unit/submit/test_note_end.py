"""An end that a GET has shown is noted, whoever goes away meanwhile."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.domain.run import parse
from receiver.submit.results import Results
from tests.support.events import body

UNUSED: Any = None


async def unheard(_: object) -> None:
    """Wakes nobody."""


DAY = 86_400.0


class SlowLedger:
    """Stands for a ledger whose first transaction does not end."""

    def __init__(self) -> None:
        self.writes = 0

    async def write(self, work: object) -> None:
        self.writes += 1
        if self.writes == 1:
            await asyncio.Event().wait()


async def test_a_note_whose_caller_went_away_is_made_for_the_next_one() -> None:
    # Given a caller that hangs up while the end of its run is noted, so that the note is rolled back
    ledger: Any = SlowLedger()
    results = Results(ledger, UNUSED, UNUSED, UNUSED, unheard, 120.0)
    ended = parse(body("tsk_1"))
    first = asyncio.create_task(results.note_end("skyvern", ended))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    # When another one sees the end, and a third
    await results.note_end("skyvern", ended)
    await results.note_end("skyvern", ended)

    # Then it is noted, once
    assert ledger.writes == 2


@pytest.mark.parametrize(
    ("days", "kept", "noted"), [(10, 7 * DAY, False), (10, None, True), (7.5, 7 * DAY, True), (1, 7 * DAY, True)]
)
async def test_end_older_than_retention_is_not_noted(days: float, kept: float | None, noted: bool) -> None:
    # Given a run that ended long ago, and events that are kept for so long; clocks may differ by hours
    ledger: Any = SlowLedger()
    ledger.writes = 1
    results = Results(ledger, UNUSED, UNUSED, UNUSED, unheard, 120.0, kept)
    ended_at = (datetime.now(UTC) - timedelta(days=days)).isoformat()

    # When a GET shows it
    await results.note_end("skyvern", parse(body("tsk_1", finished_at=ended_at)))

    # Then it is noted only where its events can't have been removed
    assert (ledger.writes == 2) is noted
