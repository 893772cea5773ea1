"""How many files a process lets itself open, and what it says when these are too few."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator

import pytest

from receiver.runtime import process
from receiver.runtime.process import Bell, error_location, raise_file_limit


@pytest.fixture
def hard_limit() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_is_raised_as_far_as_the_system_allows_it(hard_limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_FILES", 600)
    assert raise_file_limit() == 600
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (600, hard_limit)
    assert raise_file_limit() == 600, "it is never lowered"
    monkeypatch.undo()
    raised = raise_file_limit()
    assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 600 or hard_limit == 600


def test_a_bell_for_which_there_are_no_files_is_one_error_that_tells_why(monkeypatch: pytest.MonkeyPatch) -> None:
    unheard: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        Bell()
    except OSError as error:
        said = error_location(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert said.startswith("OSError (Too many open files) at process.py:")
    assert unheard == []
