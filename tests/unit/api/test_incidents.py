"""Failed runs that are one incident."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.api.incidents import TREND, common_part, grouped
from receiver.ledger.lists.incidents import FailedRun
from receiver.ledger.totals import Span

SPAN = Span(1000.0, 1240.0)  # of which each stretch of the trend is 10 s
BEFORE = 760.0


def failed(run_id: str, at: float, reason: str | None = "Timeout", workflow: str | None = "w") -> FailedRun:
    return FailedRun("skyvern", run_id, workflow, "Invoices", "failed", reason, at)


def test_reasons_that_differ_in_ids_and_numbers_are_one_incident() -> None:
    runs = [
        failed("r4", 1239, "Timeout after 31 s"),
        failed("r3", 1100, "timeout after 30 s"),
        failed("r2", 1005, "Login failed"),
        failed("r1", 1001, "Timeout after 30 s", "another"),
        failed("r0", 999, "Timeout after 29 s"),
    ]
    first, second, third = grouped(runs, SPAN)
    assert (first.reason, first.workflow, first.count, first.before) == ("timeout after # s", "w", 2, 1)
    assert (first.first_at, first.last_at, first.run_id) == (999, 1239, "r4")
    assert (first.example, first.find) == ("Timeout after 31 s", "imeout after 3")
    # And the trend has the time before, then this one
    assert [place for place, count in enumerate(first.trend) if count] == [TREND - 1, TREND + 10, 2 * TREND - 1]
    assert (second.reason, second.before) == ("login failed", 0)
    assert third.workflow == "another"


def test_what_has_not_failed_in_this_time_is_no_incident() -> None:
    assert grouped([failed("r0", 999)], SPAN) == []
    assert grouped([], SPAN) == []


def test_a_run_without_reason_or_workflow_is_in_a_group_too() -> None:
    (row,) = grouped([failed("r0", 1000, None, None)], SPAN)
    assert (row.workflow, row.reason, row.example, row.find) == ("", "", "", "")


@pytest.mark.parametrize(
    ("reasons", "part"),
    [
        ({"Timeout after 30 s"}, "Timeout after 30 s"),
        ({"a", "ab"}, ""),
        ({"", "Timeout"}, ""),
        ({"x" * 900}, "x" * 200),
        ({"no #1 at all", "no #2 at all", "no #3 at allwhere"}, "at all"),
    ],
)
def test_the_filter_of_an_incident(reasons: set[str], part: str) -> None:
    assert common_part(reasons) == part


@given(st.sets(st.text("abc 1", max_size=30), max_size=6))
def test_the_filter_finds_each_of_them(reasons: set[str]) -> None:
    part = common_part(reasons)
    assert all(part in each for each in reasons)
