"""The benchmarks in their smallest form: each part runs to its end and returns figures."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = [pytest.mark.long, pytest.mark.longest]


def test_no_event_is_lost_or_repeated_in_a_short_soak() -> None:
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.2", "--rate", "20"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290)

    assert done.returncode == 0, done.stdout + done.stderr
