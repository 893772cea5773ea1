"""An end that a GET has shown is noted, unless retention may have removed the run."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.domain.run import parse
from receiver.submit.limits import LIMITS
from receiver.submit.results import Results
from tests.support.events import body

UNUSED: Any = None


DAY = 86_400.0


class CountingLedger:
    """Counts the transactions that write."""

    writes = 0

    async def write(self, _: object) -> None:
        self.writes += 1

    def now(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("days", "kept", "noted"), [(10, 7 * DAY, False), (10, None, True), (7.5, 7 * DAY, True), (1, 7 * DAY, True)]
)
async def test_end_older_than_retention_is_not_noted(days: float, kept: float | None, noted: bool) -> None:
    # Given a run that ended long ago, and events that are kept for so long; clocks may differ by hours
    ledger: Any = CountingLedger()
    results = Results(ledger, UNUSED, UNUSED, LIMITS, 120.0, kept)
    ended_at = (datetime.now(UTC) - timedelta(days=days)).isoformat()

    # When a GET shows it
    await results.note_end("skyvern", parse(body("tsk_1", finished_at=ended_at)))

    # Then it is noted only where its events can't have been removed
    assert bool(ledger.writes) is noted
