"""The closed loop in its short form; `make loop` runs the long one."""

from __future__ import annotations

from pathlib import Path

from bench.loop import Loop


def test_every_submission_comes_to_its_end_though_webhooks_are_lost_and_the_receiver_is_killed(
    tmp_path: Path, redis_url: str
) -> None:
    loop = Loop(100, seed=1, directory=tmp_path / "loop", redis_url=redis_url)

    found = loop.run(patience=60)

    assert found.errors == []
    assert found.min_polls > 0
    logs = loop.system.log + loop.system.log_of("worker") + loop.system.log_of("clock")
    assert "Traceback" not in logs, logs[-3000:]
