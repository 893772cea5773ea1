"""What a worker does and says before its first child starts, with a real Valkey."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver import worker
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.errors import NotStarted
from receiver.ledger import Ledger
from tests.support.ledger import new_event, record, with_tables


def test_a_worker_says_at_its_start_which_deliveries_nobody_will_send(
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
    assert "the sink old is not in the config and has 2 queued" in said


def test_a_worker_does_not_start_where_a_process_may_not_open_a_file_for_each_send() -> None:
    sinks = {"hook": {"type": "http", "url": "http://app.example/", "concurrency": 10_000}}
    config = Config.model_validate({"sources": {"skyvern": {"secrets": ["s"]}}, "sinks": sinks, "routes": []})

    worker.check_file_limit(config, 10_256)
    with pytest.raises(NotStarted, match=r"sinks\.hook\.concurrency is 10000.* open 1024 here\. Allow 10256"):
        worker.check_file_limit(config, 1024)


def test_the_sends_of_all_sinks_that_share_a_process_count_together() -> None:
    def sink(concurrency: int, **more: str) -> dict[str, object]:
        return {"type": "http", "url": "http://app.example/", "concurrency": concurrency, **more}

    sinks = {"a": sink(600), "b": sink(3000), "c": sink(2000, worker="own")}
    config = Config.model_validate({"sources": {"skyvern": {"secrets": ["s"]}}, "sinks": sinks, "routes": []})

    worker.check_file_limit(config, 3856)
    with pytest.raises(
        NotStarted, match=r"sinks\.b\.concurrency is 3000, and 3600 with .* open 3855 here\. Allow 3856 .* worker: own"
    ):
        worker.check_file_limit(config, 3855)
    # Those that this worker serves
    worker.check_file_limit(config, 2256, ["c"])
    worker.check_file_limit(config, 2256, ["dispatch", "deliver:a", "c"])
    with pytest.raises(NotStarted, match=r"sinks\.c\.concurrency is 2000, and each of its sends"):
        worker.check_file_limit(config, 2255, ["c"])
