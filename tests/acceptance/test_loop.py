"""The closed loop in its short form; `make loop` runs the long one."""

from __future__ import annotations

from pathlib import Path

from bench.loop import FAULTS, Loop
from receiver.skyvern.simulator import Fault

# A run whose last webhook after a cancel is lost is asked for only two minutes later.
SHORT = {fault: ratio for fault, ratio in FAULTS.items() if fault is not Fault.CANCEL}


def test_every_submission_comes_to_its_end_though_webhooks_are_lost_and_the_receiver_is_killed(
    tmp_path: Path, redis_url: str
) -> None:
    loop = Loop(60, seed=1, directory=tmp_path / "loop", redis_url=redis_url, faults=SHORT, of_reads={})

    found = loop.run(patience=120)

    done = ("all is still", "submits", "ledger", "sink chat", "table: one row", "sinks", "deliveries", "Test button")
    assert [each for each in found.errors if each.startswith(done)] == []
    assert found.min_polls > 0
    logs = loop.system.log + loop.system.log_of("worker") + loop.system.log_of("clock")
    assert "Traceback" not in logs, logs[-3000:]
