"""`runhook console hash`: what it prints opens the console, and nothing else of the password is shown."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from receiver.console.passwords import is_password
from tests.support.command import Said

HashOf = Callable[[str], Said]


@pytest.fixture
def hash_of(said: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> HashOf:
    def run(password: str) -> Said:
        monkeypatch.setattr(sys, "stdin", io.StringIO(password))
        return said("console", "hash")

    return run


def test_a_password_becomes_its_hash(hash_of: HashOf) -> None:
    code, out, _ = hash_of("correct horse\n")
    assert code == 0
    assert out.startswith("$argon2id$")
    assert is_password(out.strip(), "correct horse")
    assert not is_password(out.strip(), "correct horse\n")


@pytest.mark.parametrize("password", ["", "short\n", "x" * 1025])
def test_a_password_that_is_none(password: str, hash_of: HashOf) -> None:
    code, out, errors = hash_of(password)
    assert (code, out) == (2, "")
    assert "must have at least 8 characters" in errors
