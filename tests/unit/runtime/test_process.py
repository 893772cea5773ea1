"""this process and its system, and how often something may happen in it."""

import resource
from collections.abc import Iterator

import pytest

from receiver.runtime.process import raise_file_limit
from receiver.runtime.throttle import TokenBucket


@pytest.fixture
def hard_limit() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_file_limit_is_raised_and_never_lowered(hard_limit: int) -> None:
    assert raise_file_limit(600) == 600
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (600, hard_limit)
    assert raise_file_limit(600) == 600
    raised = raise_file_limit()
    assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 600 or hard_limit == 600


def test_bucket_passes_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(1, 100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(1, 100.6) for _ in range(2)] == [True, False]
    # What was not used is not saved up beyond the burst
    assert not bucket.take(4, 1e9)
    assert bucket.take(3, 1e9)
