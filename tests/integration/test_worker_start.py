"""What a worker does and says before its first child starts, with a real Valkey."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver import worker
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.ledger import Ledger
from tests.support.ledger import new_event, record, with_tables


def test_worker_logs_deliveries_of_removed_sinks_at_its_start(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {
        "REDIS_URL": redis_url,
        "RUNHOOK_DATA": str(tmp_path),
        "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db",
    }
    record(with_tables(Ledger(environ["DATABASE_URL"])), new_event("tsk_1", "old", "new"), new_event("tsk_2", "old"))

    config = {"sources": {"skyvern": {"secrets": ["s"]}}, "sinks": {"new": {"type": "files", "path": str(tmp_path)}}}
    worker.prepare(Settings.from_env(environ), Config.model_validate({**config, "routes": []}), 5.0)

    (said,) = [each.getMessage() for each in caplog.records if "orphaned" in each.getMessage()]
    assert "removed sink old has pending deliveries: 2 queued" in said
