"""The claim budget of a runner, case by case: how many claims it holds, and when it claims more."""

import math
from typing import Any

import pytest

from receiver.delivery.claim_budget import AHEAD, CALM, CLAIM_AGAIN, FAST, MOST, MOST_BYTES, ClaimBudget

NOW = 100.0
AT_ONCE, LATER = -math.inf, math.inf


def budget(size: int = 8, seconds: float | None = FAST / 2, **options: bool) -> ClaimBudget:
    """A budget that claimed last at NOW, whose sends have taken `seconds`."""
    it = ClaimBudget(size, **options)
    it.note_claim(NOW)
    if seconds is not None:
        it.note_send(seconds)
    return it


@pytest.mark.parametrize(
    ("given", "held", "weight", "free"),
    [
        ({}, 0, 0, 8 * AHEAD),
        ({}, 8, 0, 8 * AHEAD - 8),
        ({}, 99, 0, 0),
        ({"seconds": FAST * 2}, 0, 0, 8),
        ({"seconds": None}, 0, 0, 8),
        ({"rated": True}, 0, 0, 8),
        ({"many_lanes": True}, 3, 0, 5),
        ({"size": 256}, 0, 0, MOST),
        ({"size": 5000}, 0, 0, MOST),
        ({}, 1, MOST_BYTES - 1, 8 * AHEAD - 1),
        ({}, 1, MOST_BYTES, 0),
    ],
)
def test_room_is_what_the_sink_and_memory_allow(given: Any, held: int, weight: int, free: int) -> None:
    assert budget(**given).free(held, weight, NOW) == free


def test_trouble_leaves_room_for_what_is_under_way_for_a_moment() -> None:
    it = budget()
    it.note_trouble(NOW)
    assert [it.free(0, 0, NOW + seconds) for seconds in (0, CALM / 2, CALM)] == [8, 8, 8 * AHEAD]


def test_sends_that_become_slow_leave_no_room_ahead() -> None:
    it = budget()
    for _ in range(20):
        it.note_send(FAST * 2)
    assert it.free(0, 0, NOW) == 8


@pytest.mark.parametrize(
    ("given", "held", "waiting", "at"),
    [
        ({}, 0, False, AT_ONCE),
        ({}, 8 * AHEAD // 2 - 1, True, AT_ONCE),
        ({}, 8 * AHEAD // 2, True, LATER),
        ({}, 8 * AHEAD // 2, False, NOW + CLAIM_AGAIN),
        ({}, 8 * AHEAD, False, LATER),
        ({"many_lanes": True}, 7, True, AT_ONCE),
        ({"many_lanes": True}, 8, False, LATER),
        ({"size": 1, "rated": True}, 0, False, AT_ONCE),
    ],
)
def test_next_claim_waits_until_it_is_worth_it(given: Any, held: int, waiting: bool, at: float) -> None:
    assert budget(**given).claims_at(held, 0, NOW, waiting=waiting) == at
