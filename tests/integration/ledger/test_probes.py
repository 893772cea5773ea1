"""Probes of a shut lane: one at a time, and none without a delivery."""

from __future__ import annotations

from receiver.domain.breaker import Lane
from receiver.ledger import Ledger
from receiver.ledger.deliveries import lanes
from tests.support.ledger import NOW, claim, every_lane, new_event, record


def shut(ledger: Ledger, until: float) -> None:
    lane = Lane("ops", "ops", breaker="open", failures=5, until=until)
    ledger.write(lambda connection: lanes.put(connection, lane, NOW))


def test_empty_lane_whose_time_is_up_probes_with_the_next(ledger: Ledger) -> None:
    # Given a lane whose time is up, and nothing to send
    shut(ledger, until=NOW - 1)
    # When a worker looks, and a delivery comes just after
    assert claim(ledger, "ops") == []
    record(ledger, new_event("r1", "ops"))
    # Then it is the probe, at once
    (probe,) = claim(ledger, "ops", "w", now=NOW + 0.1)
    assert probe.probe
    assert [lane.breaker for lane in ledger.read(every_lane)] == ["probing"]


def test_there_is_one_probe_at_a_time(ledger: Ledger) -> None:
    record(ledger, new_event("r1", "ops"), new_event("r2", "ops"))
    shut(ledger, until=NOW - 1)
    assert len(claim(ledger, "ops")) == 1
    assert claim(ledger, "ops", "w") == []
    assert len(claim(ledger, "ops", "w", now=NOW + lanes.PROBE_LEASE)) == 1
