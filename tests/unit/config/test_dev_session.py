"""The session file of `runhook dev`: only a regular file of the same user counts."""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.config import dev_session
from receiver.config.dev_session import DevSession, SessionFile

SESSION = DevSession("http://127.0.0.1:8000", "http://127.0.0.1:8000", "local-key", True)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / dev_session.FILE


@pytest.fixture
def locked(file: Path) -> Iterator[int]:
    """A session file that a process keeps locked, as `dev` does."""
    file.write_text(json.dumps({"url": "", "console": "", "key": "k", "local_key": False, "variables": {}}))
    handle = os.open(file, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield handle
    os.close(handle)


def test_session_is_found_while_its_file_is_locked(file: Path) -> None:
    session = SessionFile()
    session.write(SESSION, {"RUNHOOK_DATA": "/data"})

    found = dev_session.running()
    assert found is not None
    assert (found.key, found.variables["RUNHOOK_DATA"]) == (SESSION.key, "/data")

    session.remove()
    assert dev_session.running() is None
    assert not file.exists()


def test_dev_waits_for_a_command_that_reads_the_file(file: Path) -> None:
    # Given a command that reads what a killed `dev` left
    file.touch()
    with file.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        end = threading.Timer(0.1, lambda: fcntl.flock(reader, fcntl.LOCK_UN))
        end.start()
        # When another `dev` starts
        session = SessionFile()
        end.join()
    # Then its session is found
    session.write(SESSION, {})
    assert session.trouble == ""
    assert (found := dev_session.running()) is not None
    assert found.key == SESSION.key
    session.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_session_of_another_user_is_ignored(locked: int) -> None:
    assert dev_session.running() is not None

    os.fchown(locked, 65534, 65534)

    assert dev_session.running() is None


@pytest.mark.parametrize("planted", ["another user's", "another name of a file", "a pipe"])
def test_nothing_is_written_into_what_stands_there(file: Path, tmp_path: Path, planted: str) -> None:
    # Given something that is no file of a session
    precious = tmp_path / "precious"
    precious.write_text("keep this")
    if planted == "a pipe":
        os.mkfifo(file)
    elif planted == "another name of a file":
        os.link(precious, file)
    elif os.geteuid() == 0:  # only root can give a file away
        shutil.copy(precious, file)
        os.chown(file, 65534, 65534)
    else:
        return

    # When `dev` starts, then it says so, waits for nothing, and leaves it as it is
    session = SessionFile()
    session.write(SESSION, {})
    session.remove()
    assert "Remove it" in session.trouble
    assert dev_session.running() is None
    assert {path.read_text() for path in (precious, file) if path.is_file()} == {"keep this"}
