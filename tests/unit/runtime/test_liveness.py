"""Which processes are dead: real processes and their locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.runtime import liveness
from receiver.runtime.child import die_with_parent
from receiver.runtime.liveness import LivenessLock, release_dead

LIVE = """
import sys
from pathlib import Path
from receiver.runtime import liveness
liveness.boot_id = lambda boot=sys.argv[3], found=liveness.boot_id: boot or found()
lock = liveness.LivenessLock(Path(sys.argv[1]), sys.argv[2])
print("alive", flush=True)
sys.stdin.read()
"""
Live = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """`live(owner)`: a process that holds its lock. `boot`: of another machine."""
    made = []

    def start(owner: str, boot: str = "") -> subprocess.Popen[str]:
        parent = os.getpid()
        process = subprocess.Popen(
            [sys.executable, "-c", LIVE, str(tmp_path), owner, boot],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: die_with_parent(parent),
        )
        made.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "alive\n"
        return process

    yield start
    for process in made:
        process.kill()
        process.communicate()


@pytest.fixture
def dead(live: Live) -> Callable[..., None]:
    """`dead(owner)`: leave what a killed process leaves."""

    def kill(owner: str, boot: str = "") -> None:
        process = live(owner, boot)
        process.kill()
        process.wait()

    return kill


class Releaser:
    """Records whose claims are released; returns False for the owners in `failing`."""

    def __init__(self) -> None:
        self.released: list[str] = []
        self.failing: set[str] = set()

    def __call__(self, owner: str) -> bool:
        if owner in self.failing:
            return False
        self.released.append(owner)
        return True


def test_process_is_dead_once_it_was_killed_and_not_before(tmp_path: Path, live: Live) -> None:
    it = Releaser()
    killed, living = live("main@a.1"), live("main@a.2")
    assert release_dead(tmp_path, it)
    assert it.released == []
    killed.kill()
    killed.wait()
    assert release_dead(tmp_path, it)
    assert release_dead(tmp_path, it)
    assert it.released == ["main@a.1"]
    assert living.poll() is None


def test_process_that_stands_still_is_not_dead(tmp_path: Path, live: Live) -> None:
    stopped, it = live("main@a.1"), Releaser()
    stopped.send_signal(signal.SIGSTOP)
    assert release_dead(tmp_path, it)
    assert it.released == []
    stopped.send_signal(signal.SIGCONT)


def test_owner_that_could_not_be_released_is_found_again(tmp_path: Path, dead: Callable[..., None]) -> None:
    it = Releaser()
    it.failing = {"main@a.1"}
    dead("main@a.1")
    dead("main@a.2")
    assert not release_dead(tmp_path, it)
    it.failing = set()
    assert release_dead(tmp_path, it)
    assert it.released == ["main@a.1", "main@a.2"]


def test_owner_that_cannot_be_released_stops_no_other(tmp_path: Path, dead: Callable[..., None]) -> None:
    dead("main@a.1")
    dead("main@a.2")
    released = []

    def release(owner: str) -> bool:
        if owner == "main@a.1":
            raise UnicodeEncodeError("utf-8", owner, 0, 1, "surrogates not allowed")
        released.append(owner)
        return True

    assert release_dead(tmp_path, release)
    assert released == ["main@a.2"]
    assert list((tmp_path / "workers").iterdir()) == []


def test_other_files_in_the_folder_stop_nothing(tmp_path: Path, dead: Callable[..., None]) -> None:
    # Given a dead process's file among others
    dead("main@a.1")
    folder = tmp_path / "workers"
    os.mkfifo(folder / "a pipe")
    (folder / "a folder").mkdir()
    (folder / "empty").touch()
    (folder / "noise").write_bytes(os.urandom(10_000))
    (folder / "can't be read").symlink_to("/proc/self/mem")
    (folder / "dangling").symlink_to("/nowhere")
    # When the dead are looked for
    it = Releaser()
    looking = threading.Thread(target=release_dead, args=(tmp_path, it), daemon=True)
    looking.start()
    looking.join(120)
    # Then that one is found, and nothing else
    assert not looking.is_alive()
    assert it.released == ["main@a.1"]


def test_process_of_another_machine_is_never_called_dead(tmp_path: Path, dead: Callable[..., None]) -> None:
    # Given files on a shared disk, whose locks mean nothing here
    dead("main@b.1", "another")
    dead("main@b.2", "another")
    two_days_ago = time.time() - 2 * 86400
    os.utime(tmp_path / "workers" / "main@b.1", (two_days_ago, two_days_ago))
    # When the dead are looked for
    it = Releaser()
    release_dead(tmp_path, it)
    # Then none is released, and the old file is removed
    assert it.released == []
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["main@b.2"]


def test_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        LivenessLock(file, "main@a.1")
    assert release_dead(file, Releaser())


def test_orderly_end_leaves_nothing(tmp_path: Path) -> None:
    LivenessLock(tmp_path, "main@a.1").end()
    assert list((tmp_path / "workers").iterdir()) == []


def test_boot_id_is_that_of_the_kernel() -> None:
    assert liveness.boot_id() == liveness.boot_id() != ""
