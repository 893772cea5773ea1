"""How old the end of a run is at least, whatever Skyvern's clock says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.run import Run
from receiver.domain.webhook_grace import LONG_PAST, SUBMIT_TIME, ended_for

NOW = 1_800_000_000.0
HOURS = 3600.0


def test_an_end_is_as_old_as_our_own_note_of_it() -> None:
    assert ended_for(Run(), NOW) == 0
    assert ended_for(Run(), NOW, noted_at=NOW - 30) == 30
    assert ended_for(Run(finished_at=NOW - 9 * HOURS), NOW, noted_at=NOW - 30) == 30


@pytest.mark.parametrize("skew", [-13 * HOURS, -90.0, 0.0, 90.0, 13 * HOURS])
def test_the_end_of_a_submitted_run_is_dated_by_how_long_it_took(skew: float) -> None:
    # Given a run that was submitted an hour ago and took ten minutes, by a clock that is wrong by hours
    created = NOW - HOURS + skew
    run = Run(created_at=created, finished_at=created + 600)

    # Then it has ended for fifty minutes, less what a submit may take
    assert ended_for(run, NOW, noted_at=NOW, submitted_at=NOW - HOURS) == pytest.approx(3000 - SUBMIT_TIME)


def test_old_submission_that_just_ended_is_young() -> None:
    run = Run(created_at=NOW - HOURS, finished_at=NOW - 1)
    assert ended_for(run, NOW, noted_at=NOW, submitted_at=NOW - HOURS) == 0


def test_where_a_time_is_missing_our_own_note_counts() -> None:
    assert ended_for(Run(finished_at=NOW - 60), NOW, noted_at=NOW - 3, submitted_at=NOW - HOURS) == 3
    assert ended_for(Run(created_at=NOW - HOURS, finished_at=NOW - 60), NOW, noted_at=NOW - 3) == 3
    assert ended_for(Run(created_at=NOW - HOURS), NOW, noted_at=NOW - 3, submitted_at=NOW - HOURS) == 3
    assert ended_for(Run(created_at=NOW - HOURS), NOW, noted_at=NOW - 3, listed_at=NOW) == 3


def test_a_later_run_in_the_same_list_dates_an_end() -> None:
    assert ended_for(Run(finished_at=NOW - 7 * HOURS), NOW, listed_at=NOW - 6 * HOURS) == HOURS
    assert ended_for(Run(finished_at=NOW), NOW, listed_at=NOW - 6 * HOURS) == 0


def test_an_end_of_days_ago_is_old_by_any_clock() -> None:
    assert ended_for(Run(finished_at=NOW - LONG_PAST - 1), NOW) == LONG_PAST + 1
    assert ended_for(Run(finished_at=NOW - LONG_PAST + 1), NOW) == 0


@given(st.floats(-14 * HOURS, 14 * HOURS), st.floats(0, 5 * HOURS), st.floats(0, SUBMIT_TIME), st.floats(0, 2 * HOURS))
def test_no_skew_of_clocks_makes_an_end_older_than_it_is(
    skew: float, took: float, submitting: float, ended: float
) -> None:
    # Given a run that ended so many seconds ago, and a clock of Skyvern's that is off by some time zone
    created = NOW - ended - took
    run = Run(created_at=created + skew, finished_at=created + took + skew)
    listed_at = NOW + skew

    age = ended_for(run, NOW, noted_at=NOW, submitted_at=created - submitting, listed_at=listed_at)

    assert age <= ended + 1e-3
