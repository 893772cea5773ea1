"""The soak in a short form: with servers that go away and processes that are stopped, each event arrives."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.long


def test_nothing_is_missing_after_a_short_soak_with_trouble() -> None:
    command = [sys.executable, "bench/soak.py", "--minutes", "0.5", "--rate", "20", "--trouble"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
