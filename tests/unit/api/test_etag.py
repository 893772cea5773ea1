"""Whether a client has an answer already."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.api.responses import etag_of, is_known

TAG = etag_of(b"{}")


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (TAG, True),
        (TAG.removeprefix("W/"), True),  # compared weakly
        ("*", True),
        (f'"other", {TAG}', True),
        (f'W/"a,b" ,{TAG}', True),
        ("", False),
        ('"other"', False),
        (TAG.replace('"', ""), False),
        (f'"{TAG}"', False),
        (f"{TAG[:-2]}", False),
    ],
)
def test_what_a_client_says_that_it_has(given: str, known: bool) -> None:
    assert is_known(given, TAG) is known


@given(st.binary(), st.binary())
def test_another_answer_has_another_tag(one: bytes, other: bytes) -> None:
    assert is_known(etag_of(one), etag_of(other)) is (one == other)
