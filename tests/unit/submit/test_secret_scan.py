"""Secrets are found as plain text and as JSON escapes it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.submit.replies import SecretScan

SECRET = 'sk-live_/+5e1f\\"ü'
SCAN = SecretScan(["other-secret-1", SECRET])
FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "JSON": json.dumps,
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("around", [("", ""), ('{"a": "', '"}')])
def test_secret_is_found_in_each_form(form: str, around: tuple[str, str]) -> None:
    text = around[0] + FORMS[form](SECRET) + around[1]
    assert SCAN.found_in(text.encode())
    assert not SecretScan(["sk-live_/+5e1f-other"]).found_in(text.encode())
    assert len(FORMS[form](SECRET).encode()) - 6 <= SCAN.overlap + 1


@given(st.binary(max_size=200))
def test_other_texts_contain_no_secret(text: bytes) -> None:
    assert not SecretScan(["a-secret-that-chance-does-not-make"]).found_in(text)
