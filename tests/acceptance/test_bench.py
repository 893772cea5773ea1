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


def test_pipeline_is_compared_with_a_peer_in_one_table() -> None:
    command = [sys.executable, "-m", "bench", "pipeline", "--tiny"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290)

    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]
    assert rows[0] == ["figure", "value", "peer", "ratio", "floor", "result"]
    floors = {name: floor for name, _, peer, ratio, floor, result in rows[2:] if peer and ratio and result}
    assert list(floors.values())[:3] == ["≤ 2 ×", "≤ 3 ×", "≥ 2.5 ×"]
    # The worker's CPU has a floor that belongs to the speed of the machine, which is shown
    assert [name for name in floors if name.startswith("CPU of the worker for an event alone")]
    assert [name for name, *_ in rows if name == "a loop of 10,000,000 additions"]
