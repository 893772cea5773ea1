"""When a submission is polled."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain.poll_schedule import AGAIN, LONGEST_FIRST, first_poll, next_poll


@pytest.mark.parametrize(
    ("members", "headers", "seconds"),
    [
        ({}, {}, 600),
        ({"max_steps": 10}, {}, 360),
        ({"max_steps": 10}, {"x-max-steps-override": "4"}, 180),
        ({"max_elapsed_time_minutes": 5, "max_steps": 100}, {}, 360),
        ({"max_elapsed_time_minutes": None, "max_steps": None}, {}, 600),
        ({"max_steps": 10**400}, {}, 600),
        ({"max_steps": 10**9}, {}, LONGEST_FIRST),
        ({"max_steps": True}, {}, 600),
        ({"max_steps": -3}, {"x-max-steps-override": "many"}, 600),
        ({"max_steps": [1]}, {"x-max-steps-override": "nan"}, 600),
    ],
)
def test_the_first_poll_comes_when_the_request_allows_no_more(
    members: dict[str, Any], headers: dict[str, str], seconds: float
) -> None:
    assert first_poll(members, headers, 1000.0, 600.0) == 1000.0 + seconds


@given(st.integers(-1, 10**6), st.floats(0, 0.999), st.floats(1, 1e6))
def test_polls_grow_rarer_up_to_the_longest_pause(polls: int, chance: float, longest: float) -> None:
    wait = next_poll(polls, 0.0, chance, longest)
    assert min(AGAIN, longest) * 0.75 <= wait <= longest * 1.25


def test_skyvern_may_ask_for_a_later_poll_but_not_for_none() -> None:
    assert next_poll(0, 0.0, 0.5, 3600, retry_after=100) == 100
    assert next_poll(0, 0.0, 0.5, 3600, retry_after=1) == AGAIN
    assert next_poll(0, 0.0, 0.5, 3600, retry_after=1e12) == LONGEST_FIRST
