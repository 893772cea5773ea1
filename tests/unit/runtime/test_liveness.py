"""Who is dead and who is not: real processes and their locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.runtime import liveness
from receiver.runtime.liveness import LivenessLock, StartedJournal
from receiver.runtime.parent_death import die_with_parent

LIVE = """
import sys
from pathlib import Path
from receiver.runtime.liveness import LivenessLock
lock = LivenessLock(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
print("alive", flush=True)
sys.stdin.read()
"""
Live = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """`live(name)`: a process that holds its lock, as the worker of a queue "deliver:ops"."""
    made = []

    def start(name: str) -> subprocess.Popen[str]:
        parent = os.getpid()
        process = subprocess.Popen(
            [sys.executable, "-c", LIVE, str(tmp_path), name, "deliver:ops"],
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


class Releaser:
    """Records whose work is released; returns False for the names in `failing`."""

    def __init__(self) -> None:
        self.released: list[tuple[str, str]] = []
        self.failing: set[str] = set()

    def __call__(self, queue: str, name: str) -> bool:
        if name in self.failing:
            return False
        self.released.append((queue, name))
        return True


def test_a_process_is_dead_as_soon_as_it_was_killed_and_not_before(tmp_path: Path, live: Live) -> None:
    it = Releaser()
    killed, living = live("ops@a.1"), live("ops@a.2")
    assert liveness.reap(tmp_path, it) == 0
    killed.kill()
    killed.wait()
    assert liveness.reap(tmp_path, it) == 1
    assert it.released == [("deliver:ops", "ops@a.1")]
    assert liveness.reap(tmp_path, it) == 0
    assert living.poll() is None


def test_a_process_that_stands_still_is_not_dead(tmp_path: Path, live: Live) -> None:
    stopped = live("ops@a.1")
    stopped.send_signal(signal.SIGSTOP)
    assert liveness.reap(tmp_path, Releaser()) == 0
    stopped.send_signal(signal.SIGCONT)


def test_a_look_leaves_no_file_open_whoever_is_alive(tmp_path: Path, live: Live) -> None:
    """The clock looks every few seconds, for as long as it runs."""
    # Given a process that lives, one that can't be released, and one of another machine
    it = Releaser()
    it.failing = {"ops@a.2"}
    live("ops@a.1")
    LivenessLock(tmp_path, "ops@a.2", "deliver:ops")._unlock()
    (tmp_path / "workers" / "ops@a.0").write_text("deliver:ops\nanother machine\n")
    # When it is looked for the dead among them, then the next one that is opened has the same number
    with (tmp_path / "file").open("w") as file:
        before = file.fileno()
    assert liveness.reap(tmp_path, it) == 0
    with (tmp_path / "file").open("w") as file:
        assert file.fileno() == before


def test_a_process_that_could_not_be_released_is_found_again(tmp_path: Path) -> None:
    it = Releaser()
    it.failing = {"ops@a.1"}
    for name in ("ops@a.1", "ops@a.2"):
        LivenessLock(tmp_path, name, "deliver:ops")._unlock()
    assert liveness.reap(tmp_path, it) == 0
    it.failing = set()
    assert liveness.reap(tmp_path, it) == 2


def test_whatever_else_lies_in_the_folder_stops_nobody(tmp_path: Path) -> None:
    # Given a dead process's file among what is none
    LivenessLock(tmp_path, "ops@a.1", "deliver:ops")._unlock()
    folder = tmp_path / "workers"
    os.mkfifo(folder / "a pipe")
    (folder / "a folder").mkdir()
    (folder / "empty").touch()
    (folder / "noise").write_bytes(os.urandom(10_000))
    (folder / "can't be read").symlink_to("/proc/self/mem")
    (folder / "dangling").symlink_to("/nowhere")
    # When the dead are looked for
    it = Releaser()
    looking = threading.Thread(target=liveness.reap, args=(tmp_path, it), daemon=True)
    looking.start()
    looking.join(120)
    # Then that one is found, and nothing else
    assert not looking.is_alive()
    assert it.released == [("deliver:ops", "ops@a.1")]


def test_a_process_of_another_machine_is_left_alone_and_its_file_swept_up_one_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given files on a shared disk, whose locks say nothing here
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(liveness, "boot_id", lambda: "another")
        for name in ("ops@b.1", "ops@b.2"):
            LivenessLock(tmp_path, name, "deliver:ops")._unlock()
    two_days_ago = time.time() - 2 * 86400
    os.utime(tmp_path / "workers" / "ops@b.1", (two_days_ago, two_days_ago))
    # When the dead are looked for
    it = Releaser()
    liveness.reap(tmp_path, it)
    # Then none of them is called dead
    assert it.released == []
    assert [path.name for path in (tmp_path / "workers").iterdir()] == ["ops@b.2"]


def test_a_directory_in_which_nobody_can_write_says_so_and_holds_no_dead(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        LivenessLock(file, "ops@a.1", "deliver:ops")
    assert liveness.reap(file, Releaser()) == 0


def test_an_end_in_order_leaves_nothing(tmp_path: Path) -> None:
    LivenessLock(tmp_path, "ops@a.1", "deliver:ops").end()
    assert list((tmp_path / "workers").iterdir()) == []


def test_what_a_dead_process_had_started_of_what_it_had_claimed_is_known(tmp_path: Path) -> None:
    for name in ("ops@a.1", "ops@a.2", "ops@a.3"):
        LivenessLock(tmp_path, name, "deliver:ops")._unlock()
    journal = StartedJournal(tmp_path, "ops@a.1", places=3)
    for number in range(5):
        journal.add([f"dlv_{number}"])
    StartedJournal(tmp_path, "ops@a.2", places=3)

    assert liveness.started_items(tmp_path, "ops@a.1") == {f"dlv_{number}" for number in range(5)}
    assert liveness.started_items(tmp_path, "ops@a.2") == frozenset()
    # And it says nothing of who is dead
    it = Releaser()
    assert liveness.reap(tmp_path, it) == 3
    assert it.released[0] == ("deliver:ops", "ops@a.1")


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=8))
def test_what_is_not_settled_is_kept_however_many_start_and_places_are_used_again(steps: list[tuple[int, int]]) -> None:
    # Given a journal with few places
    with tempfile.TemporaryDirectory() as folder:
        LivenessLock(Path(folder), "ops@a.1", "deliver:ops")._unlock()
        path = Path(folder) / "workers" / "ops@a.1"
        journal, count, under_way, most = StartedJournal(Path(folder), "ops@a.1", places=3), 0, list[str](), 3
        empty = path.stat().st_size
        # When some start at once, and some of those that are under way, here and there, are settled
        for starts, ends in steps:
            journal.add(items := [f"dlv_{count + number}" for number in range(starts)])
            count, under_way = count + starts, under_way + items
            most = max(most, len(under_way))
            journal.settled(under_way[::2][:ends])
            under_way = [each for each in under_way if each not in under_way[::2][:ends]]
            # Then all that is under way is known
            assert set(under_way) <= (liveness.started_items(Path(folder), "ops@a.1") or set())
        # And the file has grown no further than that takes
        assert path.stat().st_size == empty + 64 * (most - 3)


def test_an_item_that_starts_again_before_it_is_settled_leaves_the_others_their_places(tmp_path: Path) -> None:
    # Given three items that are under way, two of which have started a second time
    LivenessLock(tmp_path, "ops@a.1", "deliver:ops")._unlock()
    journal = StartedJournal(tmp_path, "ops@a.1", places=0)
    journal.add(["dlv_1", "dlv_2", "dlv_3"])
    journal.add(["dlv_1", "dlv_2"])
    size = (tmp_path / "workers" / "ops@a.1").stat().st_size
    # When the two are settled, and others start
    journal.settled(["dlv_1", "dlv_2"])
    journal.add(["dlv_4", "dlv_5", "dlv_6"])
    # Then what is under way is known, in one place each
    assert liveness.started_items(tmp_path, "ops@a.1") == {f"dlv_{number}" for number in (3, 4, 5, 6)}
    assert (tmp_path / "workers" / "ops@a.1").stat().st_size == size + 64


def test_an_item_that_is_named_twice_at_once_leaves_the_others_their_places(tmp_path: Path) -> None:
    LivenessLock(tmp_path, "ops@a.1", "deliver:ops")._unlock()
    journal = StartedJournal(tmp_path, "ops@a.1", places=0)
    journal.add(["dlv_1", "dlv_1", "dlv_2"])
    journal.add(["dlv_3"])
    assert liveness.started_items(tmp_path, "ops@a.1") == {"dlv_1", "dlv_2", "dlv_3"}


def test_what_is_settled_without_having_started_takes_no_place(tmp_path: Path) -> None:
    LivenessLock(tmp_path, "ops@a.1", "deliver:ops")._unlock()
    journal = StartedJournal(tmp_path, "ops@a.1", places=0)
    journal.add(["dlv_1"])
    journal.settled(["dlv_2", "dlv_1"])
    journal.add(["dlv_3", "dlv_4"])
    assert liveness.started_items(tmp_path, "ops@a.1") == {"dlv_3", "dlv_4"}


@pytest.mark.parametrize("part", [0, 40])
def test_a_journal_of_which_a_part_is_written_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    LivenessLock(tmp_path, "ops@a.1", "deliver:ops")._unlock()
    journal, write = StartedJournal(tmp_path, "ops@a.1", places=0), os.pwrite
    # When a disk has room for the one and for no more than a part of the other
    monkeypatch.setattr(os, "pwrite", lambda handle, entries, at: write(handle, entries[: 64 + part], at))
    journal.add(["dlv_1", "dlv_2"])
    assert liveness.started_items(tmp_path, "ops@a.1") is None


def test_without_a_journal_that_can_be_trusted_nobody_knows_what_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file without a journal, none at all, and one from before the machine was started again
    LivenessLock(tmp_path, "ops@a.1", "deliver:ops")._unlock()
    assert liveness.started_items(tmp_path, "ops@a.1") is None
    assert liveness.started_items(tmp_path, "ops@a.2") is None
    StartedJournal(tmp_path, "ops@a.2", places=3).add(["dlv_1"])
    StartedJournal(tmp_path, "ops@a.1", places=3).add(["dlv_1"])
    with monkeypatch.context() as later:
        later.setattr(liveness, "boot_id", lambda: "another")
        assert liveness.started_items(tmp_path, "ops@a.1") is None
    # And one that could not be written to any more is not believed
    it = StartedJournal(tmp_path, "ops@a.1", places=3)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    LivenessLock(tmp_path, "ops@a.3", "deliver:ops")._unlock()
    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        StartedJournal(tmp_path, "ops@a.3", places=3).add(["dlv_1"])
    assert liveness.started_items(tmp_path, "ops@a.3") is None
    monkeypatch.setattr(os, "pwrite", full)
    it.add(["dlv_2"])
    assert liveness.started_items(tmp_path, "ops@a.1") is None
