"""Which failed runs are found, on both databases."""

from __future__ import annotations

import pytest

from receiver.ledger import Ledger, retention
from receiver.ledger.lists import incidents
from receiver.ledger.lists.filters import Filter
from receiver.ledger.totals import Span
from tests.support.ledger import new_event, record

ALL = Span(0.0, 2_000.0)


def found(ledger: Ledger, wanted: Filter, span: Span = ALL, most: int = 5000) -> tuple[list[str], float]:
    rows, edge = ledger.read(lambda it: incidents.failed_runs(it, wanted, span, most))
    return [each.run_id for each in rows], edge


@pytest.fixture
def runs(ledger: Ledger) -> Ledger:
    statuses = ["completed", "failed", "terminated", "timed_out", "canceled", "running", "failed"]
    for number, status in enumerate(statuses):
        event = new_event(
            f"r{number}", status=status, failure_reason=f"no {status}", workflow_permanent_id=f"w{number}"
        )
        record(ledger, event, now=1000.0 + number)
    return ledger


def test_runs_that_failed_are_found_the_newest_first(runs: Ledger) -> None:
    assert found(runs, Filter()) == (["r6", "r3", "r2", "r1"], 0.0)
    assert found(runs, Filter(), Span(1002.0, 1006.0)) == (["r3", "r2"], 1002.0)


def test_the_filter_narrows_them_and_its_times_do_not(runs: Ledger) -> None:
    assert found(runs, Filter(reason="NO FAILED", since=1999.0))[0] == ["r6", "r1"]
    assert found(runs, Filter(source="other"))[0] == []
    assert found(runs, Filter(workflow="w2"))[0] == ["r2"]


def test_what_was_not_looked_at_is_said(runs: Ledger) -> None:
    # Given a look that takes one run of each ending, then all are there from the newest of these on
    assert found(runs, Filter(), most=1) == (["r6"], 1006.0)
    assert found(runs, Filter(), Span(0.0, 1006.0), most=1) == (["r3"], 1003.0)


def test_erased_run_makes_no_incident_without_a_reason(runs: Ledger) -> None:
    runs.write(lambda it: retention.erase(it, ("skyvern", "r6"), "ada", 1500.0))
    assert found(runs, Filter())[0] == ["r3", "r2", "r1"]
