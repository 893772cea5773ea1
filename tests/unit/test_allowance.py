"""How often something may happen that a stranger can cause."""

from __future__ import annotations

from receiver.allowance import Allowance


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    allowance = Allowance(rate=2, burst=3)
    assert [allowance.take(1, 100.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(1, 100.6) for _ in range(2)] == [True, False]


def test_what_was_not_used_is_not_saved_up_beyond_the_burst() -> None:
    allowance = Allowance(rate=2, burst=3)
    assert not allowance.take(4, 1e9)
    assert allowance.take(3, 1e9)
