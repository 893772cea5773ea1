"""Secrets are found in every form that an echo gives them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.submit import secret_scan
from receiver.submit.secret_scan import SecretScan

SECRET = 'sk-live_/+5e1f\\"ü'
SCAN = SecretScan([b"other-secret-1", SECRET.encode()])


def each(form: str) -> Callable[[str], str]:
    """Write each byte, or character, so."""
    if "%" in form and "{" not in form:
        return lambda text: "".join(form % byte for byte in text.encode())
    return lambda text: "".join(form.format(ord(character)) for character in text)


FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "JSON": json.dumps,
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "JSON in JSON in JSON": lambda text: json.dumps(json.dumps(json.dumps(text))),
    "slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "each as u": each("\\u{:04x}"),
    "each as \\\\U": each("\\\\u{:04X}"),
    "in a URL": quote,
    "in a URL, all": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "in a URL in a URL": lambda text: quote(quote(text, safe=""), safe=""),
    "HTML, decimal": each("&#{};"),
    "HTML, hexadecimal": each("&#x{:x};"),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
    **{
        f"base64 after {before}": lambda text, before=before: base64.b64encode(
            b"x" * before + text.encode() + b"yz"
        ).decode()
        for before in range(4)
    },
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(b"x" + text.encode()).decode(),
    "base64, not filled up": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("around", [("", ""), ('{"a": "', '"}'), ("\\\\%zz&#;", "\\")])
def test_a_secret_is_found_in_every_form(form: str, around: tuple[str, str]) -> None:
    text = around[0] + FORMS[form](SECRET) + around[1]
    assert SCAN.found_in(text.encode())
    assert not SecretScan([b"sk-live_/+5e1f-other"]).found_in(text.encode())


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_no_longer_than_what_is_held_back_of_a_stream(form: str) -> None:
    secret = "sk-live-0123456789"
    assert len(FORMS[form](secret)) - 20 <= SecretScan([secret.encode()]).overlap + 1


@given(st.binary(max_size=200))
def test_other_texts_hold_none(text: bytes) -> None:
    assert not SecretScan([b"a-secret-that-chance-does-not-make"]).found_in(text)


def test_short_secrets_are_not_looked_for() -> None:
    assert not SecretScan([b"", b"short"]).found_in(b"a short text")


def test_a_secret_is_found_wherever_it_is_in_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret_scan, "_STEP", 1000)
    scan = SecretScan([b"sk-live-01"])
    for at in range(0, 2500, 7):
        assert scan.found_in(b"x" * at + b"\\u0073k-live-01" + b"x" * (2500 - at)), at


@pytest.mark.parametrize("piece", [b"\\", b"%", b"%25", b"&#", b"\\u00", b"&#x0", b"\\\\u"])
def test_the_search_takes_time_in_line_with_the_text(piece: bytes) -> None:
    before = time.thread_time()
    SCAN.found_in(piece * (1_000_000 // len(piece)))
    assert time.thread_time() - before < 2.0
