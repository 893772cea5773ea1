"""A report in which nothing is wrong, for tests of checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from receiver.domain.parts import PartBeat, PartSeen, expected

from receiver.checks.report import DiskReport, LedgerReport, RedisReport, StatusReport
from receiver.config.settings import Settings
from receiver.ledger.stats import Gauges

NOW = 1_800_000_000.0
GIB = 1 << 30


def seen(part: str, host: str = "a", age: float = 1.0, skew: float = 0.0, **fields: Any) -> PartSeen:
    beat = PartBeat(f"{part}@{host}", part, host, 7, "0.1.0", "abc", NOW - 3600, sent_at=NOW - age)
    return PartSeen(replace(beat, **fields), age, skew)


WELL = StatusReport(
    settings=Settings.from_env({}), config=None,
    now=NOW, version="0.1.0", config_file="config/runhook.yaml", config_hash="abc", config_problems=[], warnings=[],
    advice=[], expected=expected(["ops"]), sinks=["ops"],
    redis=RedisReport("redis://h/0", durability="on disk before 202: yes"),
    ledger=LedgerReport("postgresql://h/l", gauges=Gauges({("ops", "queued"): 3}, {"ops": NOW - 2}, {}, None)),
    disk=DiskReport("var", free=10 * GIB, reserve=GIB, spool_limit=2 * GIB),
    parts=[seen("receiver", details={"store": "redis"}), seen("dispatch"), seen("deliver:ops"), seen("clock")],
)  # fmt: skip
