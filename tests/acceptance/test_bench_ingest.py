"""The bench of ingest in a short form: an ack costs not many times what a bare answer costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.long

# A machine that is busy makes both dearer. Parsing bodies before the 202, or a commit for each, would cost more.
MOST = 6.0


def test_an_ack_costs_a_few_times_what_a_bare_answer_costs(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bench.ingest", "--acks", "3000", "--rounds", "1", "--connections", "64"]

    subprocess.run([*command, "--sizes", "2000", "--json", figures], cwd=ROOT, check=True, timeout=280)

    cost = {each["side"]: each["server"] for each in json.loads(figures.read_text())}
    assert cost["runhook"] < MOST * cost["bare"], cost
