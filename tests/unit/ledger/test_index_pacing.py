"""When the clock looks again for runs whose words it indexes."""

from __future__ import annotations

import pytest

from receiver.ledger.text_index.pacing import FEW, LONGEST, MOST, Pace, pause


@pytest.mark.parametrize("changed", [0, 1, int(FEW)])
def test_while_few_runs_change_it_looks_at_once(changed: int) -> None:
    assert pause(changed, 1.0, 256) == 0
    assert pause(changed * 10, 10.0, 256) == 0


def test_while_many_change_it_waits_for_most_of_a_batch() -> None:
    assert pause(200, 1.0, 256) == pytest.approx(MOST * 256 / 200)
    assert pause(400, 2.0, 256) == pytest.approx(MOST * 256 / 200)
    assert pause(2560, 1.0, 256) == pytest.approx(MOST / 10)


def test_no_run_waits_for_long() -> None:
    assert pause(int(FEW) + 1, 1.0, 256) == LONGEST <= 3


def test_a_run_after_a_quiet_time_is_not_waited_for() -> None:
    # Given a look that has found many runs, and one that has found the last of them
    pace = Pace(256)
    assert not pace.waits(100.0)
    pace.note(100.0, 200)  # since nobody knows when
    assert not pace.waits(100.0)
    pace.note(101.0, 200)
    assert pace.waits(102.0)
    assert not pace.waits(101.0 + MOST * 256 / 200)
    pace.note(102.5, 20)
    # Then the next one is at once, and so it is after a long time in which nothing changed
    assert not pace.waits(102.5)
    pace.note(1000.0, 200)
    assert not pace.waits(1000.0)


def test_what_is_left_to_be_done_at_once_is_not_waited_for() -> None:
    pace = Pace(256)
    pace.note(100.0, 0)
    pace.note(101.0, 200)
    pace.note(102.0, None)
    assert not pace.waits(102.0)
