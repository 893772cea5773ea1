"""Processes report that they are alive: in the ledger, on both databases, and in the data directory."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from receiver import __version__
from receiver.checks import board
from receiver.checks.heartbeat import Heartbeat
from receiver.config.settings import Settings
from receiver.domain.liveness import FORGET_AFTER, SeenProcess
from receiver.ledger import Ledger, LedgerUnavailable, heartbeats
from receiver.ledger.schema import heartbeats as table
from tests.support.ledger import with_tables
from tests.support.waiting import eventually


@pytest.fixture
def settings(tmp_path: Path, ledger: Ledger) -> Settings:
    url = ledger.url.render_as_string(hide_password=False)
    return Settings.from_env({"DATABASE_URL": url, "RUNHOOK_DATA": str(tmp_path / "data")})


def everywhere(settings: Settings, ledger: Ledger) -> list[list[SeenProcess]]:
    return [ledger.read(heartbeats.list_processes), board.list_local_processes(settings.data)]


def test_heartbeat_and_stop_reach_both_stores(settings: Settings, ledger: Ledger) -> None:
    # Given a process that sends heartbeats
    it = Heartbeat(settings, "deliver:ops", "abc", details=lambda: {"spool_events": 3}, interval=0.05)
    it.start()
    # Then each store has it
    for seen in eventually(lambda: all(found := everywhere(settings, ledger)) and found):
        (one,) = seen
        known = (one.beat.role, one.beat.pid, one.beat.version, one.beat.config)
        assert known == ("deliver:ops", os.getpid(), __version__, "abc")
        assert (one.state, one.beat.details["spool_events"]) == ("running", 3)
        assert one.skew is None or abs(one.skew) < 60
    assert [path.stat().st_mode & 0o077 for path in (settings.data / "parts").rglob("*.json")] == [0]
    # And it stays one, however often it sends
    first = board.list_processes(ledger)[0].beat.sent_at
    eventually(lambda: board.list_processes(ledger)[0].beat.sent_at > first)
    assert [len(seen) for seen in everywhere(settings, ledger)] == [1, 1]
    # And an orderly end is reported to the ledger; the file is gone
    it.stop()
    assert [[each.state for each in seen] for seen in everywhere(settings, ledger)] == [["stopped"], []]


def test_process_of_several_parts_has_one_file(settings: Settings, ledger: Ledger) -> None:
    roles = {f"deliver:{sink}@host": f"deliver:{sink}" for sink in ("a", "b", "c/d")}
    (name, role), *others = roles.items()

    def known() -> list[dict[str, str]]:
        return [{each.beat.name: each.beat.role for each in seen} for seen in everywhere(settings, ledger)]

    # Given one that sends heartbeats
    it = Heartbeat(settings, role, "", name=name, interval=0.05)
    for each in others:
        it.add(*each)
    it.start()
    # Then each store knows all roles, and the data directory has one file of them
    eventually(lambda: known() == [roles] * 2)
    assert len(list((settings.data / "parts").glob("*.json"))) == 1
    # When it ends in order, then there is no file
    it.stop()
    assert known()[1] == {}


def test_role_added_to_a_running_process_shows_at_once(settings: Settings, ledger: Ledger) -> None:
    # Given a process whose next heartbeat is far away
    it = Heartbeat(settings, "dispatch", "abc", interval=600)
    it.start()
    eventually(lambda: len(board.list_processes(ledger)) == 1)
    # When it takes another role, then that is known, and it still stops at once
    it.add("another", "deliver:ops")
    eventually(lambda: {each.beat.role for each in board.list_processes(ledger)} == {"dispatch", "deliver:ops"})
    it.stop()
    assert {each.state for each in board.list_processes(ledger)} == {"stopped"}


def test_heartbeat_has_the_time_since_the_last_step(settings: Settings, ledger: Ledger) -> None:
    it = Heartbeat(settings, "clock", "", watched=True, interval=0.05)
    it.start()

    eventually(lambda: [each.beat.stalled > 0.2 for each in board.list_processes(ledger)] == [True])
    # Until it continues: a heartbeat may come long after one step of it
    eventually(lambda: it.step() or board.list_processes(ledger)[0].beat.stalled < 0.2)
    it.stop()


def test_late_heartbeat_is_soon_followed_by_another(settings: Settings, ledger: Ledger) -> None:
    asked: list[float] = []

    def details() -> dict[str, Any]:
        asked.append(0.5 if len(asked) < 2 else 0.0)  # slow for the first heartbeat, once for each store
        time.sleep(asked[-1])
        return {}

    it = Heartbeat(settings, "clock", "", details=details, interval=3600, late=0.2)
    it.start()

    eventually(lambda: len(asked) > 2)
    eventually(lambda: (skew := board.list_processes(ledger)[0].skew) is not None and skew > -0.2)
    it.stop()


def test_file_has_the_heartbeat_while_the_ledger_is_down(tmp_path: Path) -> None:
    settings = Settings.from_env({"DATABASE_URL": "sqlite:////dev/null/l.db", "RUNHOOK_DATA": str(tmp_path)})
    it = Heartbeat(settings, "clock", "", interval=0.05)
    it.start()

    assert [seen.beat.role for seen in eventually(lambda: board.list_local_processes(tmp_path))] == ["clock"]
    it.stop()
    other = Ledger(settings.database_url)
    with pytest.raises(LedgerUnavailable):
        board.list_processes(other)
    other.close()


def test_ledger_that_comes_back_soon_has_the_heartbeat(tmp_path: Path) -> None:
    # Given a process whose ledger has no tables yet, and whose next heartbeat is far away
    settings = Settings.from_env({"RUNHOOK_DATA": str(tmp_path)})
    it = Heartbeat(settings, "receiver", "", interval=600, late=0.05)
    it.start()
    eventually(lambda: board.list_local_processes(tmp_path))
    # When the tables are made, then the heartbeat is soon there
    ledger = with_tables(Ledger(settings.database_url))
    eventually(lambda: board.list_processes(ledger))
    it.stop()
    ledger.close()


def test_old_heartbeats_are_forgotten(settings: Settings, ledger: Ledger) -> None:
    for role in ("clock", "dispatch"):
        it = Heartbeat(settings, role, "")
        it.start()
        eventually(lambda role=role: role in [each.beat.role for each in board.list_processes(ledger)])
        it.stop()
    old = next(each.beat for each in board.list_processes(ledger) if each.beat.role == "clock")
    long_ago = sa.update(table).where(table.c.name == old.name).values(beat_at=table.c.beat_at - FORGET_AFTER - 9)
    ledger.write(lambda connection: connection.execute(long_ago))

    assert ledger.write(heartbeats.forget) == 1
    assert [each.beat.role for each in board.list_processes(ledger)] == ["dispatch"]


def test_data_directory_keeps_its_id_when_moved(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        (one,) = set(pool.map(lambda _: board.directory_id(tmp_path / "a"), range(32)))
    assert [path.stat().st_mode & 0o077 for path in (tmp_path / "a").rglob("*")] == [0, 0]  # private
    (tmp_path / "a").rename(tmp_path / "moved")

    assert len(one) == 16
    assert board.directory_id(tmp_path / "moved") == one != board.directory_id(tmp_path / "b")
    assert board.list_local_processes(tmp_path / "moved") == []
    (tmp_path / "file").write_text("")
    assert board.directory_id(tmp_path / "file") == ""
