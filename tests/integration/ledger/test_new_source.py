"""A source that is new to a large ledger, so that the database's statistics don't know it: its runs are looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.ledger import Connection, Ledger
from receiver.ledger.database import dialect
from receiver.ledger.deliveries import same_result
from receiver.ledger.lists import events as event_lists
from receiver.ledger.lists import runs as run_lists
from receiver.ledger.lists.filters import Filter
from receiver.ledger.runs import final_runs, run_statuses
from receiver.ledger.schema import deliveries, events
from tests.support.backlog import analyze, effort
from tests.support.ledger import NOW, new_event, record

MANY = 3_000  # runs of the new source
ASKED = [new_event(f"tsk_{number}", "ops", source="new") for number in range(0, MANY, MANY // 20)]
KEYS = [each.key for each in ASKED]
FAILED = Filter(status=("failed", "timed_out"))
IDS = [each.event.id for each in ASKED]


def fill(ledger: Ledger, source: str, begun: float, failed: int = 0) -> None:
    """Record many runs, at times of their own, which lists go by. `failed`: of each hundred."""
    for first in range(0, MANY, 100):
        some = (
            new_event(f"tsk_{first + n}", "ops", source=source, status="failed" if n < failed else "completed")
            for n in range(100)
        )
        record(ledger, *some, now=begun + first)


@pytest.fixture
def grown(ledger: Ledger) -> Ledger:
    fill(ledger, "old", NOW, failed=10)
    analyze(ledger)
    fill(ledger, "new", NOW + MANY)
    return ledger


def recorded(connection: Connection) -> set[str]:
    """As dispatch looks up the events of runs."""
    return set(connection.execute(sa.select(events.c.id).where(dialect.of_runs(events, KEYS))).scalars())


def of_deliveries(connection: Connection) -> set[str]:
    wanted = dialect.among(deliveries.c.event_id, IDS)
    return set(connection.execute(sa.select(deliveries.c.event_id).where(wanted)).scalars())


LOOKS: dict[str, tuple[Callable[[Connection], Any], Any]] = {
    "events of runs": (recorded, set(IDS)),
    "deliveries of events": (of_deliveries, set(IDS)),
    "runs that are locked": (lambda it: same_result.lock(it, IDS), set(IDS)),
    "runs that ended": (lambda it: final_runs(it, KEYS), set(KEYS)),
    "statuses": (lambda it: set(run_statuses(it, KEYS)), set(KEYS)),
    "a page of runs": (lambda it: len(run_lists.list_runs(it, Filter(), None, 20)[0]), 20),
    # None of the new ones has: they are not to be read along time, though hardly one is expected there.
    "a page of runs that failed": (lambda it: len(run_lists.list_runs(it, FAILED, None, 20)[0]), 20),
    "a page of events that failed": (lambda it: len(event_lists.list_events(it, FAILED, None, 20)[0]), 20),
}


def test_some_runs_of_a_new_source_are_found_without_its_others(grown: Ledger) -> None:
    # Given many runs of a source that has come since the statistics were made
    # When some of them are looked for, then they are found
    assert {name: grown.read(look) for name, (look, _) in LOOKS.items()} == {
        name: wanted for name, (_, wanted) in LOOKS.items()
    }
    # And no other is read, but by a page those that it may look at: of each of these, on PostgreSQL, all 3,000 were
    read = {name: effort(grown, look) for name, (look, _) in LOOKS.items()}
    assert {name: each for name, each in read.items() if each > (2_500 if "page" in name else 1_000)} == {}, read
