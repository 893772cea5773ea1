"""A report in which nothing is wrong, for tests of checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from receiver.checks.report import DiskReport, LedgerReport, RedisReport, StatusReport
from receiver.config.settings import Settings
from receiver.domain.liveness import ProcessBeat, SeenProcess, expected
from receiver.ledger.stats import Gauges

NOW = 1_800_000_000.0
GIB = 1 << 30


def seen(role: str, host: str = "a", age: float = 1.0, skew: float = 0.0, **fields: Any) -> SeenProcess:
    beat = ProcessBeat(f"{role}@{host}", role, host, 7, "0.1.0", "abc", NOW - 3600, sent_at=NOW - age)
    return SeenProcess(replace(beat, **fields), age, skew)


WELL = StatusReport(
    settings=Settings.from_env({}), config=None,
    now=NOW, version="0.1.0", config_file="config/runhook.yaml", config_hash="abc", config_problems=[], warnings=[],
    advice=[], expected=expected(["ops"]), sinks=["ops"],
    redis=RedisReport("redis://h/0", durability="on disk before 202: yes"),
    ledger=LedgerReport("postgresql://h/l", gauges=Gauges({("ops", "queued"): 3}, {"ops": NOW - 2}, {}, None)),
    disk=DiskReport("var", free=10 * GIB, reserve=GIB, spool_limit=2 * GIB),
    processes=[seen("receiver", details={"store": "redis"}), seen("dispatch"), seen("deliver:ops"), seen("clock")],
)  # fmt: skip
