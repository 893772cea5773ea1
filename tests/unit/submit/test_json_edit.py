"""Editing a JSON object as text: what is not edited stays byte for byte."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.submit import replies
from receiver.submit.json_edit import NotAnObject, edit_members, has_too_many_values, parse_object

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


@given(VALUES)
def test_values_are_counted_outside_of_strings_only(value: Any) -> None:
    def values(each: Any) -> int:
        inside = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        return 1 + sum(map(values, inside))

    text = json.dumps({"a": value}).encode()

    # At least as many as there are may be, and no more than a bracket and a comma each are counted
    assert not has_too_many_values(text, 2 * values(value) + 1)
    assert has_too_many_values(text, values(value) // 2 - 1) or values(value) < 2


@pytest.mark.parametrize("text", [b'{"a":"%b"}' % (b',[{\\"' * 5000), b'{"a":"' + b"," * 5000, b'{"a":"\\\\"}'])
def test_what_stands_in_a_string_is_no_value(text: bytes) -> None:
    assert not has_too_many_values(text, 10)


@pytest.mark.parametrize("piece", [b',"a":1', b",[]", b"[", b',"[",{}'])
def test_many_values_are_too_many_also_in_what_is_no_json(piece: bytes) -> None:
    assert has_too_many_values(b'{"a":' + piece * 5000, 1000)


def test_an_edit_takes_time_in_line_with_the_members() -> None:
    def seconds(members: int) -> float:
        text = b'{"a":1' + b',"a":1' * members + b"}"
        before = time.thread_time()
        edit_members(text, {"webhook_url": b"null"})
        return time.thread_time() - before

    assert min(seconds(80_000) for _ in range(3)) < 16 * min(seconds(10_000) for _ in range(5)), "twice what is in line"
