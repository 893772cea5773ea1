"""A report in which nothing is wrong, for tests of checks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from receiver.checks.report import DiskReport, LedgerReport, RedisReport, StatusReport
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.liveness import ProcessBeat, SeenProcess
from receiver.ledger.stats import Gauges

NOW = 1_800_000_000.0
GIB = 1 << 30


def seen(role: str, host: str = "a", age: float = 1.0, skew: float = 0.0, **fields: Any) -> SeenProcess:
    beat = ProcessBeat(f"{role}@{host}", role, host, 7, "0.1.0", "abc", NOW - 3600, sent_at=NOW - age)
    return SeenProcess(replace(beat, **fields), age, skew)


def with_sinks(*names: str, api_key: str = "", **options: Any) -> Config:
    """A config with these sinks, each with the options, and one source."""
    source = {"secrets": ["s"], **({"api_key": api_key} if api_key else {})}
    sinks = {name: {"type": "files", "path": "out", **options} for name in names}
    return Config.model_validate({"sources": {"skyvern": source}, "sinks": sinks})


WELL = StatusReport(
    settings=Settings.from_env({"RUNHOOK_CONFIG": "config/runhook.yaml"}), config=with_sinks("ops"),
    now=NOW, config_hash="abc", redis=RedisReport("redis://h/0", durability="on disk before 202: yes"),
    ledger=LedgerReport("postgresql://h/l", gauges=Gauges({("ops", "queued"): 3}, {"ops": NOW - 2}, {}, None)),
    disk=DiskReport("var", free=10 * GIB, reserve=GIB, spool_limit=2 * GIB),
    processes=[seen("receiver", details={"store": "redis"}), seen("dispatch"), seen("deliver:ops"), seen("clock")],
)  # fmt: skip
