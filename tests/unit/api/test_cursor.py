"""Cursors: what was given out comes back as it was, and nothing else is taken for one."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.api import cursor
from receiver.errors import Invalid

KINDS = (float, int, str)


@given(
    st.tuples(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1), st.text()).filter(
        lambda each: all(char < "\ud800" or char > "\udfff" for char in each[2])
    )
)
def test_a_position_comes_back(position: tuple[float, int, str]) -> None:
    encoded = cursor.encode("runs", position)
    assert encoded is not None
    assert cursor.decode("runs", encoded, KINDS) == position


def test_the_end_and_the_beginning() -> None:
    assert cursor.encode("runs", None) is None
    assert cursor.decode("runs", "", KINDS) is None


def text(document: bytes) -> str:
    return base64.urlsafe_b64encode(document).decode().rstrip("=")


@pytest.mark.parametrize(
    "forged",
    [
        "x", "é", "====", text(b"null"), text(b'["runs"]'), text(b'["events",1.0,1,"a"]'), text(b'["runs",1.0,1,2]'),
        text(b'["runs",true,1,"a"]'), text(b'["runs",1.0,1.5,"a"]'), text(b'["runs",1.0,99999999999999999999,"a"]'),
        text(b'["runs",NaN,1,"a"]'),
    ],
)  # fmt: skip
def test_what_is_no_cursor_of_the_list_is_refused(forged: str) -> None:
    with pytest.raises(Invalid, match="after: not a cursor of this list"):
        cursor.decode("runs", forged, KINDS)


@given(st.text(max_size=80))
def test_any_text_is_a_cursor_or_refused(forged: str) -> None:
    try:
        found = cursor.decode("runs", forged, KINDS)
    except Invalid:
        return
    assert found is None or cursor.encode("runs", found) is not None
