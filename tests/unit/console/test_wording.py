"""What an action was asked to take, in words."""

from typing import Any

import pytest

from receiver.console.pages.deliveries import common_part
from receiver.console.wording import asked_for


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ({}, []),
        ({"sinks": ["a", "b"], "kind": "cancel"}, []),
        ({"sink": "a", "since": "2026-11-25T02:53:14.347980Z"}, [("sink", "a"), ("since", "2026-11-25 02:53:14 UTC")]),
        ({"run_ids": ["a", "b", "c", "d", "e"]}, [("runs", "a, b, c and 2 more")]),
        ({"labels": {"team": "sales"}, "force": True}, [("labels", "team=sales"), ("force", "yes")]),
    ],
)  # fmt: skip
def test_a_selection_in_words(selection: dict[str, Any], told: list[tuple[str, str]]) -> None:
    assert asked_for(selection) == told


@pytest.mark.parametrize(
    ("reason", "part"),
    [
        ("answered #: no credit for customer #", ": no credit for customer"),
        ("see https://a.example for more of it", "for more of it"),
        ("it is down", "it is down"),
        ("#", ""),
        ("", ""),
    ],
)
def test_the_part_of_a_reason_that_others_like_it_have(reason: str, part: str) -> None:
    assert common_part(reason) == part
