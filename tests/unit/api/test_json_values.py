"""Whatever a payload holds can be read by every reader, and what reads well stays as it is."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.api.events import MAX_DEPTH, json_safe

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda each: st.lists(each) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), each),
    max_leaves=20,
)


@settings(max_examples=50)
@given(PLAIN)
def test_what_reads_well_stays(value: Any) -> None:
    assert json_safe(value) == value


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        ("\ud800", "?"),
        ({"\ud800": 1}, {"?": 1}),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1 << 63, "9223372036854775808"),
        (1 << 20_000, "an integer of 20001 bits"),
        (True, True),
    ],
    ids=["surrogate", "surrogate in a name", "nan", "infinity", "large", "huge", "true"],
)
def test_what_breaks_readers(value: Any, safe: Any) -> None:
    assert json_safe(value) == safe


def test_depth() -> None:
    value: Any = 1
    for _ in range(900):
        value = {"a": value}
    assert orjson.loads(json.dumps(json_safe(value)))
    for _ in range(MAX_DEPTH):
        value = json_safe(value)["a"]
    assert value == "… nested too deeply"
