"""Editing a JSON object as text: what is not edited stays byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.submit import replies
from receiver.submit.json_edit import NotAnObject, edit_members, parse_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["webhook_url", "labels", "prompt", "a", 'quo"te', "back\\slash", "ü", "}"])
SPACE = st.text(" \t\n\r", max_size=2)


@st.composite
def members(draw: st.DrawFn) -> list[tuple[str, Any, str]]:
    """Members of an object, duplicates too, each with its text."""
    found = []
    for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=6)):
        s = [draw(SPACE) for _ in range(4)]
        ascii_only = draw(st.booleans())
        text = json.dumps(name, ensure_ascii=ascii_only), json.dumps(value, indent=draw(st.sampled_from([None, 1])))
        found.append((name, value, f"{s[0]}{text[0]}{s[1]}:{s[2]}{text[1]}{s[3]}"))
    return found


def join(texts: list[str]) -> bytes:
    return ("{" + ",".join(texts) + "}").encode("utf-8", "surrogatepass")


@given(members())
def test_editing_nothing_changes_no_byte(found: list[tuple[str, Any, str]]) -> None:
    text = join([each[2] for each in found])

    assert edit_members(text, {}) == text


@given(members(), NAMES)
def test_dropping_a_member_leaves_the_others_byte_for_byte(found: list[tuple[str, Any, str]], name: str) -> None:
    text = join([each[2] for each in found])

    assert edit_members(text, {name: None}) == (join([each[2] for each in found if each[0] != name]) if found else text)


@given(members(), NAMES, VALUES)
def test_a_changed_member_is_read_back_and_all_others_are_as_before(
    found: list[tuple[str, Any, str]], name: str, value: Any
) -> None:
    text = join([each[2] for each in found])

    changed = edit_members(text, {name: json.dumps(value).encode()})

    before, after = json.loads(text), json.loads(changed)
    assert after == {**before, name: value}
    for other, _, piece in found:
        assert other == name or piece.encode() in changed


def test_an_edit_keeps_what_a_parser_would_lose() -> None:
    text = b'{ "n": 12345678901234567890.0, "a":1.0,"a":2, "webhook_url" : null ,"z":"\\u00fc\xc3\xbc"}\n'

    assert edit_members(text, {"webhook_url": b'"x"', "labels": None}) == text.replace(b"null", b'"x"')
    assert edit_members(b"{ }", {"a": b"1"}) == b'{"a":1 }'
    assert edit_members(b'{"a":1}', {"b": b"2"}) == b'{"b":2,"a":1}'
    assert edit_members(b'{"webhook_\\u0075rl":"evil"}', {"webhook_url": b'"ours"'}) == b'{"webhook_\\u0075rl":"ours"}'


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b'{"a":1}x', b"\xff{}", b"[" * 100_000, b"{'a':1}"])
def test_what_is_no_object_is_said_to_be_none(text: bytes) -> None:
    with pytest.raises(NotAnObject) as raised:
        parse_object(text)

    assert replies.malformed(raised.value).status == 422
