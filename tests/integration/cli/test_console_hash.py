"""`runhook console hash`: what it prints opens the console, and nothing else of the password is shown."""

from __future__ import annotations

import subprocess
import sys

import pytest

from receiver.console.passwords import is_password


def hash_of(password: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "receiver.cli", "console", "hash"]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=False)


def test_a_password_becomes_its_hash() -> None:
    done = hash_of("correct horse\n")
    assert done.returncode == 0
    assert done.stdout.startswith("$argon2id$")
    assert is_password(done.stdout.strip(), "correct horse")
    assert not is_password(done.stdout.strip(), "correct horse\n")


@pytest.mark.parametrize("password", ["", "short\n", "x" * 1025])
def test_a_password_that_is_none(password: str) -> None:
    done = hash_of(password)
    assert (done.returncode, done.stdout) == (2, "")
    assert "must have 8 characters or more" in done.stderr
