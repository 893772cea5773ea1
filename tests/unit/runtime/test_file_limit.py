"""How many files a process lets itself open, and what it says when these are too few."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from receiver.runtime import process
from receiver.runtime.process import raise_file_limit


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
