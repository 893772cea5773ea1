"""The closed loop in its short form; `make loop` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.faults import Fault
from tests.loop.faults import FAULTS
from tests.loop.run import Loop

pytestmark = pytest.mark.long

# What takes minutes is in the long form only: a run whose last webhook after a cancel is lost, and a submit that was
# killed, or answered 500, is asked for so much later.
SHORT = {fault: ratio for fault, ratio in FAULTS.items() if fault not in (Fault.CANCEL, Fault.CRASH)}


def test_each_run_ends_as_its_webhook_says_despite_all_faults(tmp_path: Path, redis_url: str) -> None:
    loop = Loop(40, 1, tmp_path / "loop", redis_url, faults=SHORT, of_reads={}, kills=1)

    found = loop.run(patience=300)

    assert found.errors == []
    assert found.min_polls > 0
    logs = loop.system.log + loop.system.log_of("worker") + loop.system.log_of("clock")
    assert "Traceback" not in logs, logs[-3000:]
