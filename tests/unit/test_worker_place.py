"""Which worker had a data directory before: only the claims of a dead one may be released."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.worker import succeed

LIVE = """
import sys
from pathlib import Path
from receiver.worker import succeed
print(repr(succeed(Path(sys.argv[1]), sys.argv[2])), flush=True)
sys.stdin.read()
"""


class Worker:
    """A process that succeeds the worker before it. `before`: what that returned."""

    def __init__(self, data: Path, place: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LIVE, str(data), place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.before = self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def first(tmp_path: Path) -> Iterator[Worker]:
    it = Worker(tmp_path, "host.1")
    yield it
    it.end()


def test_dead_worker_is_succeeded_and_a_live_one_is_not(tmp_path: Path, first: Worker) -> None:
    beside = Worker(tmp_path, "host.2")
    first.end()
    after = Worker(tmp_path, "host.3")
    assert [each.before for each in (first, beside, after)] == ["''", "''", "'host.1'"]
    beside.end()
    after.end()


def test_unusable_data_folder_succeeds_no_worker(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert succeed(tmp_path / "file" / "data", "host.1") == ""
