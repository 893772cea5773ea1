"""Which workers of a data directory have ended: only the claims of dead ones may be released."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from receiver.worker_process import dead_places, take_place

LIVE = """
import sys
from pathlib import Path
from receiver.worker_process import take_place
print(*take_place(Path(sys.argv[1]), sys.argv[2]), flush=True)
sys.stdin.read()
"""
MANY = """
import sys
from pathlib import Path
from receiver.worker_process import take_place
before = [take_place(Path(sys.argv[1]), f"host.{number}") for number in range(100)]
Path(sys.argv[1], "started").write_text(str(before))
sys.stdin.read()
"""


class Worker:
    """A process that takes a place. `before`: what that returned."""

    def __init__(self, data: Path, place: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LIVE, str(data), place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.before = self.process.stdout.readline().split()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    with ExitStack() as stack:

        def begin(place: str) -> Worker:
            it = Worker(tmp_path, place)
            stack.callback(it.end)
            return it

        yield begin


def test_each_dead_worker_is_known_and_no_live_one(tmp_path: Path, worker: Callable[[str], Worker]) -> None:
    # Given two workers with one data directory
    first, second = worker("host.1"), worker("host.2")
    assert (first.before, second.before, dead_places(tmp_path)) == ([], [], [])
    # When either ends, then the others know it, and so does the next one
    second.end()
    assert dead_places(tmp_path) == ["host.2"]
    assert worker("host.3").before == ["host.2"]
    first.end()
    assert dead_places(tmp_path) == ["host.1"]


def test_starting_worker_never_counts_as_dead(tmp_path: Path) -> None:
    # Given workers that start one after another, as one process here
    dead = set[str]()
    with subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path)], stdin=subprocess.PIPE) as starting:
        # When another worker looks all the time
        while not (tmp_path / "started").exists() and starting.poll() is None:
            dead.update(dead_places(tmp_path))
        # Then it takes none of them for a dead one
        assert (dead, starting.poll()) == (set(), None)


@pytest.mark.parametrize("folder", ["file", "x" * 300], ids=["a file", "an error of the file system"])
def test_unusable_data_folder_knows_no_dead_worker(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    assert take_place(tmp_path / folder / "data", "host.1") == dead_places(tmp_path / folder) == []


def test_worker_whose_file_cannot_be_opened_counts_as_live(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "host.1").symlink_to("host.1")  # as with one of another user
    assert dead_places(tmp_path) == []
