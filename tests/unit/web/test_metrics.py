"""/metrics counts long backlogs less often, so that scrapes cost the same however long they are."""

from __future__ import annotations

import pytest

from receiver.ledger.stats import COUNT_LIMIT, Gauges
from receiver.web.metrics import FRESH_FOR, OLDEST, fresh_for


def gauges(sinks: int, of_each: int) -> Gauges:
    return Gauges({(f"s{n}", "queued"): of_each for n in range(sinks)}, {}, {}, None)


@pytest.mark.parametrize(
    ("found", "seconds"),
    [
        (None, FRESH_FOR),
        (gauges(0, 0), FRESH_FOR),
        (gauges(1, COUNT_LIMIT), 5.0),
        (gauges(4, COUNT_LIMIT), 20.0),
        (gauges(100, COUNT_LIMIT), OLDEST),
    ],
    ids=["the ledger is away", "nothing waits", "one long backlog", "four", "a hundred"],
)
def test_numbers_are_reused_for_as_long_as_counting_them_is_work(found: Gauges | None, seconds: float) -> None:
    assert fresh_for(found) == seconds
