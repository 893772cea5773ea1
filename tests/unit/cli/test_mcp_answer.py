"""Answers to a model: never longer than their bound, and all of what was cut can be had."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.cli.mcp_answer import bounded, part_of
from receiver.errors import Invalid

LIMIT = 24_000

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("a~b/c"), inner, max_size=4),
    max_leaves=12,
)
wrappings = st.tuples(st.sampled_from(["list", "object", "text", "deep", "names"]), st.integers(1, 300))


@settings(max_examples=25)
@given(values, st.lists(wrappings, max_size=2))
def test_an_answer_is_never_longer_than_its_bound(value: Any, wrapping: list[tuple[str, int]]) -> None:
    for kind, size in wrapping:
        value = {
            "list": lambda value, size: [value] * size,
            "object": lambda value, size: {f"{number:050}": value for number in range(min(size, 60))},
            "text": lambda value, size: {"text": "\0" * size * 40, "value": value},
            "deep": lambda value, size: [[[[{"a": {"b": value}}]]]],
            "names": lambda value, size: {"n" * size * 3: value, "/" * 200: value},
        }[kind](value, size)

    assert len(orjson.dumps(bounded(value, LIMIT))) <= LIMIT


@given(values)
def test_what_fits_is_told_whole(value: Any) -> None:
    assert bounded(value, LIMIT) == {"answer": value}


WHOLES = ["x" * 9000 + "y" * 90_000, [f"{n:0500}" for n in range(300)], {"a": list("z" * 999)}]


@pytest.mark.parametrize("whole", WHOLES)
def test_reading_on_at_each_cut_gives_the_whole(whole: Any) -> None:
    def read(at: str) -> Any:
        found, offset = None, 0
        while True:
            answer = bounded(part_of(whole, at, offset), 9000, at, offset)
            piece = answer["answer"]
            own = next((cut for cut in answer.get("cut", ()) if cut["at"] == at), None)
            for cut in answer.get("cut", ()):
                assert cut["at"].startswith(at)
            piece = piece[: own["shown"]] if own and isinstance(piece, str) else piece
            if isinstance(piece, list):
                piece = [read(f"{at}/{offset + n}") if isinstance(each, str) else each for n, each in enumerate(piece)]
            elif isinstance(piece, dict):
                piece = {name: read(f"{at}/{name}") for name in piece}
            found = piece if found is None else found | piece if isinstance(piece, dict) else found + piece
            if own is None:
                return found
            assert own["offset"] > offset
            offset = own["offset"]

    assert read("") == whole


@pytest.mark.parametrize(("at", "wrong"), [("a", "JSON pointer"), ("/b", "nothing at b"), ("/a/1", "nothing at 1")])
def test_a_place_that_is_not_there_is_told(at: str, wrong: str) -> None:
    with pytest.raises(Invalid, match=wrong):
        part_of({"a": ["x"]}, at, 0)


def test_a_number_has_no_places() -> None:
    with pytest.raises(Invalid, match="neither text, list nor object"):
        part_of({"a": 1}, "/a", 1)
    assert part_of({"a/b~": {"c": "text"}}, "/a~1b~0/c", 2) == "xt"
