"""Tests that several processes run: which of them runs what, and what comes of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.forked_workers import Shares
from tests.support.paths import ROOT

CONFTEST = """
from tests.support import forked_workers

def pytest_runtestloop(session):
    forked_workers.run(session, 2, "slow")
    return True
"""
TESTS = """
import os, sys, tempfile, warnings
from pathlib import Path
import pytest

@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with open("made", "a") as made:
        made.write(f"{os.getpid()} {__name__}\\n")
    yield tmp_path_factory.mktemp("place")
    with open("made", "a") as made:
        made.write(f"{os.getpid()} {__name__} is gone\\n")

@pytest.mark.parametrize("number", range(20))
def test_it(number, place):
    print("said", number)
    with open("ran", "a") as ran:
        ran.write(f"{os.getpid()} {__name__} {number}\\n")
    assert number != 7
"""
END = """
import os, signal, warnings

def test_before(): pass
def test_that_ends_its_process(): os.kill(os.getpid(), signal.SIGKILL)
def test_after(): pass
def test_warns(): warnings.warn("look out")
"""


def modules(*sizes: int) -> list[list[int]]:
    numbers = iter(range(sum(sizes)))
    return [[next(numbers) for _ in range(size)] for size in sizes]


def test_each_test_is_given_once_those_of_a_module_to_one_worker_while_there_is_enough() -> None:
    # Given modules of which two wait most of the time, and four workers that are equally fast
    made = modules(*[30] * 40, 3, 3)
    shares = Shares(made[:-2], made[-2:], 4)
    owners: dict[int, list[int]] = {}
    # When each takes what it is given until there is nothing left
    began = [shares.take(worker) for worker in range(4)]
    for worker, piece in enumerate(began):
        for test in piece:
            owners.setdefault(test, []).append(worker)
    while pieces := [(worker, piece) for worker in range(4) if (piece := shares.take(worker))]:
        for worker, piece in pieces:
            for test in piece:
                owners.setdefault(test, []).append(worker)
    # Then each was given once
    assert sorted(owners) == list(range(1206))
    assert all(len(each) == 1 for each in owners.values())
    assert shares.left == 0
    # And two begin with those that wait, and most modules are one worker's
    assert [piece[0] for piece in began[:2]] == [1200, 1203]
    assert Counter(len({owners[test][0] for test in module}) for module in made)[1] >= 38


def test_who_is_done_takes_the_end_of_the_longest_share_and_half_of_a_single_module() -> None:
    shares = Shares(modules(40, 40, 40), [], 2)
    taken: list[int] = []
    while len(taken) < 60:  # its own share
        taken += shares.take(0)
    assert taken == list(range(60))
    # Given another that has run nothing
    assert shares.take(0) == [80]
    taken = [80]
    while len(taken) < 40:
        taken += shares.take(0)
    assert taken == list(range(80, 120))
    assert shares.take(0) == [70]
    assert shares.take(1) == [60]


def test_what_is_given_back_is_given_again_in_its_order() -> None:
    shares = Shares(modules(3), [], 1)
    taken = [*shares.take(0), *shares.take(0)]
    shares.give_back(0, taken)
    assert shares.left == 3
    assert [test for _ in range(3) for test in shares.take(0)] == [0, 1, 2]
    assert shares.take(0) == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(TESTS)
    (tmp_path / "test_end.py").write_text(END)
    return tmp_path


def run(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".", "-rfEw"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command += [*arguments, "--basetemp", str(project / "temporary")]
    ended = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True)
    assert ended.stderr == ""
    assert ended.returncode == 1
    return ended.stdout


def test_what_workers_tell_is_reported_and_one_that_ends_is_replaced(project: Path) -> None:
    # When tests are run of which two fail and one kills its process
    said = run(project)
    # Then that is what is said, with what the failed ones have printed, and nothing of others
    assert re.search(r"3 failed, 41 passed, 1 warning in", said), said
    assert "the process that ran it has ended: signal 9" in said
    assert "look out" in said
    assert said.count("said ") == said.count("said 7\n") == 2
    # And each has run once, in one of two processes
    ran = [line.split() for line in (project / "ran").read_text().splitlines()]
    assert sorted((name, int(number)) for _, name, number in ran) == [
        (n, i) for n in ("test_a", "test_b") for i in range(20)
    ]
    assert len({pid for pid, *_ in ran}) in (2, 3)
    # And whatever a process has made for a module is gone at its end, unless the process was killed before
    made = (project / "made").read_text().splitlines()
    gone = {line.removesuffix(" is gone") for line in made if line.endswith(" is gone")}
    killed = {line for line in made if not line.endswith(" is gone")} - gone
    assert len({line.split()[0] for line in killed}) <= 1


def test_the_first_failure_ends_the_run_where_that_is_wanted(project: Path) -> None:
    said = run(project, "-x", "--deselect", "test_end.py::test_that_ends_its_process")
    assert "stopping after 1 failures" in said
    assert re.search(r"1 failed, \d+ passed", said), said
    made = (project / "made").read_text().splitlines()
    assert sum(line.endswith(" is gone") for line in made) == len(made) // 2
