"""How often something may happen that a stranger can cause."""

from __future__ import annotations

from receiver.runtime.throttle import TokenBucket


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(1, 100.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(1, 100.6) for _ in range(2)] == [True, False]


def test_what_was_not_used_is_not_saved_up_beyond_the_burst() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert not bucket.take(4, 1e9)
    assert bucket.take(3, 1e9)
