"""What a lane's breaker becomes by what the last attempts met."""

from dataclasses import replace
from itertools import pairwise

import pytest

from receiver.domain.breaker import IDLE_SHARE, LONGEST, LONGEST_IDLE, THRESHOLD, Lane, Observation, after, cooldown

CLOSED = Lane("ops", "ops")
DOWN = Observation(False, "connection refused")
UP = Observation(True)


def test_breaker_stays_closed_after_a_few_failures() -> None:
    lane = after(CLOSED, [DOWN] * (THRESHOLD - 1), now=100)
    assert (lane.breaker, lane.failures) == ("closed", THRESHOLD - 1)
    assert after(lane, [UP], now=101) == CLOSED


def test_breaker_opens_after_failures_in_a_row() -> None:
    lane = after(CLOSED, [DOWN] * THRESHOLD, now=100)
    assert (lane.breaker, lane.until, lane.reason) == ("open", 102, "connection refused")


def test_failed_batch_counts_only_until_the_breaker_opens() -> None:
    lane = after(CLOSED, [DOWN] * 256, now=100)
    assert (lane.breaker, lane.failures, lane.until) == ("open", THRESHOLD, 102)


def test_each_failed_probe_doubles_the_wait_up_to_a_cap() -> None:
    waits = []
    lane = after(CLOSED, [DOWN] * THRESHOLD, now=0)
    for _ in range(8):
        lane = after(Lane("ops", "ops", breaker="probing", failures=lane.failures), [DOWN], now=0)
        waits.append(lane.until)
    assert waits == [4, 8, 16, 32, 60, 60, 60, 60]
    assert max(waits) == LONGEST == cooldown(10**9)


def test_probes_grow_apart_up_to_a_cap() -> None:
    # Given a breaker that opens and whose probes fail for three days
    lane = after(CLOSED, [DOWN] * THRESHOLD, now=1000)
    probes = []
    while lane.until < 1000 + 3 * 86_400:
        probes.append(lane.until)
        lane = after(replace(lane, breaker="probing"), [DOWN], now=lane.until)

    # Then it counts as open since the first of them
    assert lane.opened_at == 1000
    # And no outage is prolonged by more than a tenth of it, or the cap
    pauses = [later - sooner for sooner, later in pairwise([*probes, lane.until])]
    for at, pause in zip(probes, pauses, strict=True):
        assert pause <= max(LONGEST, min((at - 1000) * IDLE_SHARE, LONGEST_IDLE)) + 1e-6
    assert pauses == [pytest.approx(each) for each in sorted(pauses)]
    assert pauses[-1] == pytest.approx(LONGEST_IDLE)
    assert len(probes) < 250


def test_an_accepted_probe_closes_it() -> None:
    assert after(Lane("ops", "ops", breaker="probing", failures=9, reason="x"), [UP], now=5) == CLOSED


def test_retry_after_delays_the_probe_within_the_cap() -> None:
    assert after(CLOSED, [Observation(False, "429", 20.0)] * THRESHOLD, now=100).until == 120
    assert after(CLOSED, [Observation(False, "429", 1e9)] * THRESHOLD, now=100).until == 100 + LONGEST


def test_no_answer_changes_nothing() -> None:
    assert after(CLOSED, [], now=1) == CLOSED
