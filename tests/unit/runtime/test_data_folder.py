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


def test_new_folders_are_private(tmp_path: Path) -> None:
    secure(tmp_path / "srv" / "runhook")

    assert modes(tmp_path) == {"srv": "700", "srv/runhook": "700"}


def test_open_files_are_closed_except_those_of_sinks(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_folder_of_others_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    # Given a folder around the current one, and one that all may write to
    folder = tmp_path / "tmp"
    (folder / "project").mkdir(parents=True)
    folder.chmod(mode)
    if mode == 0o755:
        monkeypatch.chdir(folder / "project")
    secure(folder)
    assert folder.stat().st_mode & 0o7777 == mode
    assert "set RUNHOOK_DATA to a separate folder" in caplog.text


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(NotStarted, match="set RUNHOOK_DATA"):
        secure(tmp_path / "file" / "data")
