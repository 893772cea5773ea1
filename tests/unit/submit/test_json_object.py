"""JSON objects that pass through: what is kept, and what is not an object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.submit import replies
from receiver.submit.json_object import NotAnObject, parse_object, with_members

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), VALUES)
def test_changed_object_keeps_other_members_and_their_order(members: dict[str, Any], value: Any) -> None:
    changed = with_members(json.dumps(members, indent=1).encode(), status=value)
    assert list(json.loads(changed).items()) == list({**members, "status": value}.items())


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b'{"a":1}x', b"\xff{}", b"[" * 100_000, b"{'a':1}", b'{"a":1e400}', b"9" * 5000]
)
def test_anything_else_is_not_an_object(text: bytes) -> None:
    with pytest.raises(NotAnObject) as raised:
        parse_object(text)
    assert replies.malformed(raised.value).status == 422
