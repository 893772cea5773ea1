"""When a delivery is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.config.destinations import RetryPolicy
from receiver.delivery.backoff import RETRY_AFTER_CAP, delay, next_try

POLICY = RetryPolicy(attempts=4, first=5, factor=2, max=15)


@pytest.mark.parametrize(("spent", "shortest", "longest"), [(1, 2.5, 5), (2, 5, 10), (3, 7.5, 15), (40, 7.5, 15)])
def test_the_delay_doubles_up_to_its_cap_with_jitter(spent: int, shortest: float, longest: float) -> None:
    assert delay(POLICY, spent, 0.0) == shortest
    assert delay(POLICY, spent, 0.999999) == pytest.approx(longest, rel=1e-3)


@pytest.mark.parametrize(("spent", "dead"), [(1, False), (3, False), (4, True), (5, True)])
def test_a_delivery_is_dead_when_its_attempts_are_spent(spent: int, dead: bool) -> None:
    assert (next_try(POLICY, spent, now=1000, chance=0.5) is None) == dead


def test_a_sinks_own_retry_after_makes_it_later_but_never_sooner() -> None:
    assert next_try(POLICY, 1, 1000, 0.0, retry_after=60) == 1060
    assert next_try(POLICY, 1, 1000, 0.0, retry_after=0) == 1002.5
    assert next_try(POLICY, 1, 1000, 0.0, retry_after=-5) == 1002.5
    assert next_try(POLICY, 1, 1000, 0.0, retry_after=1e12) == 1000 + RETRY_AFTER_CAP


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_retries_spread_out_and_never_precede_retry_after(chance: float) -> None:
    due = next_try(POLICY, 1, 1000, chance, retry_after=60)
    assert due == pytest.approx(1060 + 3 * chance)


@pytest.mark.parametrize(
    ("since", "retry_after", "due"),
    [
        (None, None, 1002.5),
        (950, None, 1002.5),
        (901, None, 1001),  # the last attempt is made when the time is up
        (900, None, None),
        (1, None, None),
        (901, 60.0, 1060),  # but not before the sink asked for it
        (900, 60.0, None),
    ],
)
def test_delivery_is_dead_when_its_time_is_up(
    since: float | None, retry_after: float | None, due: float | None
) -> None:
    policy = RetryPolicy(attempts=1000, first=5, give_up_after=100)

    assert next_try(policy, 1, 1000, 0.0, retry_after, since=since) == due


@given(
    spent=st.integers(0, 10**6),
    factor=st.floats(1, 100),
    chance=st.floats(0, 1, exclude_max=True),
    retry_after=st.none() | st.floats(allow_nan=False),
)
def test_next_try_is_always_ahead_and_finite(
    spent: int, factor: float, chance: float, retry_after: float | None
) -> None:
    policy = RetryPolicy(attempts=1000, first=0.1, factor=factor, max=3600)
    due = next_try(policy, spent, 1000.0, chance, retry_after)
    assert (due is None) == (spent >= 1000)
    assert due is None or 1000.0 <= due <= 1000.0 + RETRY_AFTER_CAP * 1.05
