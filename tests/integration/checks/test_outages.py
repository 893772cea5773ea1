"""What the survey reports of a ledger that is down, and of an inbox that drains."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from receiver.checks import board
from receiver.checks.heartbeat import Heartbeat
from receiver.checks.survey import survey
from receiver.cli import build_app
from receiver.config.settings import Settings
from receiver.domain.liveness import ProcessBeat
from receiver.inbox.state import InboxState
from receiver.ledger import Ledger
from tests.servers.receiver import body
from tests.support.inbox import fill
from tests.support.ledger import with_tables
from tests.support.waiting import eventually


def test_status_shows_since_when_the_ledger_is_down(tmp_path: Path) -> None:
    # Given a process whose ledger has no tables
    settings = Settings.from_env({"RUNHOOK_DATA": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0"})
    it = Heartbeat(settings, "clock", "", interval=0.05, late=0.05)
    began = time.time()
    it.start()

    # Then status of this machine says since when
    down_since = eventually(lambda: survey(settings).ledger.down_since)
    assert began - 1 <= down_since <= time.time()

    # And that is over when the ledger is back
    ledger = with_tables(Ledger(settings.database_url))
    eventually(lambda: [each.beat.details["ledger_down"] for each in board.list_processes(ledger)] == [None])
    assert survey(settings).ledger.down_since is None
    it.stop()
    ledger.close()


def test_inbox_shrinks_by_what_a_receiver_counted_before(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an inbox of 100 entries, and a receiver that counted more some seconds ago
    environment = {"RUNHOOK_DATA": str(tmp_path), "REDIS_URL": redis_url}
    settings = Settings.from_env(environment)
    fill(redis_url, *(body(number) for number in range(100)))
    now = time.time()
    beat = ProcessBeat("r", "receiver", "elsewhere", 7, "0", "", now, sent_at=now)

    def inbox(*counted: float) -> InboxState:
        board.put_file(tmp_path, replace(beat, details={"inbox": list(counted)}))
        return survey(settings).redis.inbox

    # Then the report has the rate at which it drains
    assert 0 < inbox(now - 20, 900).rate <= 800 / 20
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(build_app(), ["status"]).stdout
    (line,) = (line for line in shown.splitlines() if line.startswith("inbox"))
    assert re.search(r"100 events, .*; [0-9.]+ fewer each second, drained in \d+ s at this rate", line)
    # And none while it grows, or where no receiver has counted
    assert inbox(now - 20, 50).rate == 0
    assert inbox().rate == 0
