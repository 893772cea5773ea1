"""The lock that processes and threads share: one at a time, never for ever, and not inherited."""

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from handlers.support.file_lock import FileLock, NotLocked
from tests.support.waiting import Stopwatch


def test_one_thread_at_a_time_holds_it(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "deep" / "x.lock")
    inside: list[int] = []

    def work() -> None:
        for _ in range(20):
            with lock.held(30):
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with lock.held(0):
        pass


def test_who_waits_is_told_who_holds_it_and_for_how_long(tmp_path: Path) -> None:
    lock, other = FileLock(tmp_path / "x.lock"), FileLock(tmp_path / "x.lock")
    failures: list[str] = []

    def take(which: FileLock) -> None:
        watch = Stopwatch()
        with pytest.raises(NotLocked) as caught, which.held(0.05):
            pass
        watch.at_most(10)
        failures.append(str(caught.value))

    with lock.held(1):
        for which in (lock, other):
            thread = threading.Thread(target=take, args=(which,))
            thread.start()
            thread.join()
    assert failures == ["was locked by another thread for 0.05 s", "was locked by another process for 0.05 s"]
    with lock.held(1), pytest.raises(NotLocked), other.held(-1):
        pass
    with other.held(1):  # what failed holds nothing
        pass


def test_what_goes_wrong_inside_passes_and_lets_go(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "x.lock")
    with pytest.raises(FileNotFoundError), lock.held(1):
        raise FileNotFoundError("of the one who holds it")
    with (tmp_path / "x.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(NotLocked, match=r"can't be locked: .*/taken/x\.lock: "),
        FileLock(tmp_path / "taken" / "x.lock").held(1),
    ):
        pass


_FORK = """
import os, sys
from pathlib import Path
from handlers.support.file_lock import FileLock, NotLocked
lock = FileLock(Path(sys.argv[1]))
(reading, ready), (done, finish) = os.pipe(), os.pipe()
if not os.fork():
    with lock.held(5):
        os.write(ready, b"x")
        os.close(finish)
        os.read(done, 1)
    os._exit(0)
os.read(reading, 1)
try:
    with lock.held(0.1):
        print("both")
except NotLocked as error:
    print(error)
os.close(finish)
print(os.wait()[1])
"""


def test_a_fork_does_not_share_the_lock_of_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FORK, str(tmp_path / "x.lock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["was locked by another process for 0.1 s", "0"], done.stderr
