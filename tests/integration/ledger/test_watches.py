"""Leases and watermarks of walks, on both databases."""

from __future__ import annotations

from receiver.ledger import Ledger, watches
from tests.support.ledger import NOW


def test_walk_is_leased_to_one_clock_at_a_time(ledger: Ledger) -> None:
    def lease(now: float) -> bool:
        return ledger.write(lambda connection: watches.lease(connection, "skyvern", now)) is not None

    assert (lease(NOW), lease(NOW + 1), lease(NOW + watches.WALK_LEASE)) == (True, False, True)

    ledger.write(lambda connection: watches.finish(connection, "skyvern", 5.0, NOW + 200, NOW))
    assert (lease(NOW + 199), lease(NOW + 200)) == (False, True)


def test_a_watermark_never_goes_back(ledger: Ledger) -> None:
    ledger.write(lambda connection: watches.lease(connection, "skyvern", NOW))
    seen = []
    for watermark in (None, 5.0, 3.0, None, 7.0):
        ledger.write(lambda connection, at=watermark: watches.finish(connection, "skyvern", at, NOW, NOW))  # type: ignore[misc]
        seen.append(ledger.read(watches.list_watches)[0].watermark)

    assert seen == [None, 5.0, 5.0, 5.0, 7.0]
