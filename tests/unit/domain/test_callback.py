"""Which lane a caller's address belongs to."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.domain import callback
from receiver.domain.callback import behind, key_in, lane_of, origin_in, origin_of


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://app.example/hooks?token=secret#x", "https://app.example"),
        ("https://APP.example:443/", "https://app.example"),
        ("https://app.example./", "https://app.example"),
        ("http://user:pw@app.example:8080/a", "http://app.example:8080"),
        ("http://[fd00::1]:80/a", "http://[fd00::1]"),
        (" https://app.example/ ", "https://app.example"),
        ("ftp://app.example/", "nowhere"),
        ("https://app.example:99999/", "nowhere"),
        ("https:///path", "nowhere"),
        ("http://[fd00", "nowhere"),
        ("", "nowhere"),
    ],
)
def test_a_lane_is_a_callers_origin_and_holds_nothing_secret(url: str, origin: str) -> None:
    lane = lane_of(url, "rk_1")

    assert lane == f"callback rk_1 {origin}"
    assert (key_in(lane), origin_in(lane), origin_of(url)) == ("rk_1", origin, origin)
    assert min([lane, behind("rk_1")], key=str.lower) == lane


@pytest.mark.parametrize(
    ("taken", "room"),
    [
        ({}, 16),
        ({"a": 10}, 6),
        ({"a": 16}, 0),
        ({"b": 16}, 8),
        ({"b": 16, "c": 8}, 4),
        ({"b": 16, "c": 8, "a": 4}, 0),
        ({"b": 31}, 1),
        ({"b": 32}, 1),  # as soon as a place is free
        ({"a": 20}, -4),  # others came later
        ({"": 16}, 8),
    ],
)
def test_one_caller_takes_half_of_what_others_leave_free(taken: dict[str, int], room: int) -> None:
    assert callback.room("a", taken, 32) == room


def test_whom_nobody_knows_may_take_all() -> None:
    assert callback.room("", {"a": 16}, 32) == 32


@given(st.lists(st.sampled_from("abcdef"), max_size=300), st.integers(1, 64))
def test_caller_gets_a_free_place_in_any_order_of_calls(calls: list[str], places: int) -> None:
    taken: Counter[str] = Counter()
    for key in calls:
        if taken.total() < places and callback.room(key, taken, places) > 0:
            taken[key] += 1
    for key in "abcdef":
        assert taken.total() == places or taken[key] or callback.room(key, taken, places) > 0
        assert taken[key] <= max(1, places // 2)
