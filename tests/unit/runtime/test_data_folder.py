"""Who may read the data folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from receiver.errors import NotStarted
from receiver.runtime.data_folder import secure


def modes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): f"{path.stat().st_mode & 0o777:o}" for path in folder.rglob("*")}


def test_a_new_folder_is_its_owners_alone_and_so_are_those_made_around_it(tmp_path: Path) -> None:
    secure(tmp_path / "srv" / "runhook")

    assert modes(tmp_path) == {"srv": "700", "srv/runhook": "700"}


def test_what_an_older_release_left_open_is_closed_but_for_what_sinks_keep(tmp_path: Path) -> None:
    data = tmp_path / "var"
    for folder in ("redis/appendonlydir", "spool/1", "quarantine", "archive/run"):
        (data / folder).mkdir(parents=True)
    for name in ("ledger.db", "ledger.db-wal", "runhook-secret", "redis/log", "quarantine/evt_1.req", "archive/run/a"):
        (data / name).write_text("")
        (data / name).chmod(0o644)
    data.chmod(0o755)

    secure(data)

    found = modes(tmp_path)
    assert {name: found.pop(f"var/{name}") for name in ("archive", "archive/run", "archive/run/a")} == {
        "archive": "755",
        "archive/run": "755",
        "archive/run/a": "644",
    }
    inside = ("var/redis/appendonlydir", "var/spool/1")
    assert {name for name, mode in found.items() if mode not in ("600", "700")} == set(), inside


def test_links_and_sockets_are_left(tmp_path: Path) -> None:
    data = tmp_path / "var"
    data.mkdir(mode=0o755)
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "elsewhere").chmod(0o644)
    (data / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(data / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(data / "sock"))

        secure(data)

    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o644
    assert data.stat().st_mode & 0o777 == 0o700


def test_a_folder_around_the_current_one_is_no_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "project").mkdir()
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path / "project")

    secure(tmp_path)

    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert "set RUNHOOK_DATA to a folder of its own" in caplog.text


def test_a_folder_for_everybody_is_no_data_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)

    secure(folder)

    assert folder.stat().st_mode & 0o7777 == 0o1777
    assert "set RUNHOOK_DATA to a folder of its own" in caplog.text


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(NotStarted, match="set RUNHOOK_DATA"):
        secure(tmp_path / "file" / "data")
