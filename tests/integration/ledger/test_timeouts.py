"""An operation that the database cancels for time again and again is an alarm of its own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest

from handlers.support.postgresql import TimeLimits
from receiver.ledger import Ledger, LedgerUnavailable, stats
from receiver.ledger.database import timeouts
from receiver.ledger.database.timeouts import SERIES
from receiver.ledger.deliveries import claims
from receiver.web.metrics import PolledMetrics
from tests.support.ledger import NOW


@pytest.fixture
def hasty(postgres_ledger: Ledger) -> Iterator[Ledger]:
    """The same ledger, whose statements may run for a moment only."""
    it = Ledger(postgres_ledger.url.render_as_string(hide_password=False), limits=TimeLimits(statement=0.2))
    yield it
    it.close()


def never_ends(ledger: Ledger) -> None:
    """A claim that takes longer than it may, as its log calls it."""
    with pytest.raises(LedgerUnavailable, match="timeout"):
        ledger.write(lambda it: claims.claim(it, "ops", 1, "w", NOW))


@contextlib.contextmanager
def deliveries_locked(ledger: Ledger) -> Iterator[None]:
    """Another transaction that keeps all others from the deliveries."""
    engine = sa.create_engine(ledger.url)
    with engine.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE deliveries IN EXCLUSIVE MODE")
        yield
    engine.dispose()


def test_claim_cancelled_twice_is_an_alarm(
    postgres_ledger: Ledger, hasty: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a claim that takes longer than a statement may
    with deliveries_locked(postgres_ledger), caplog.at_level(logging.INFO, "runhook.ledger"):
        # When it happens once, then it is told
        never_ends(hasty)
        assert postgres_ledger.read(stats.read).cancelled == []
        # And when it happens again, in whichever process, it is an alarm
        never_ends(hasty)
    told = [(each.levelname, each.getMessage().partition(" reason=")[0]) for each in caplog.records]
    assert told == [
        ("WARNING", "ledger.cancelled operation=deliveries.claims.claim times=1"),
        ("ERROR", "ledger.cancelled operation=deliveries.claims.claim times=2"),
    ]
    gauges = postgres_ledger.read(stats.read)
    assert [(each.operation, each.times) for each in gauges.cancelled] == [("deliveries.claims.claim", 2)]
    metrics, registry = PolledMetrics([], [], []), CollectorRegistry()
    registry.register(metrics)
    metrics.gauges = gauges
    assert b'runhook_ledger_cancelled{operation="deliveries.claims.claim"} 2.0' in generate_latest(registry)
    # And it is over some time after the last
    assert postgres_ledger.read(lambda it: timeouts.repeated(it, gauges.read_at + SERIES + 1)) == []


def test_cancellations_far_apart_are_not_an_alarm(ledger: Ledger) -> None:
    def note(at: float) -> int:
        return ledger.write(lambda it: timeouts.record(it, "retention.remove", at))

    assert [note(NOW), note(NOW + SERIES + 1), note(NOW + 3 * SERIES)] == [1, 1, 1]
    assert ledger.read(lambda it: timeouts.repeated(it, NOW + 3 * SERIES)) == []
    assert note(NOW + 3 * SERIES + 5) == 2
    (found,) = ledger.read(lambda it: timeouts.repeated(it, NOW + 3 * SERIES + 9))
    assert (found.times, found.first_at, found.last_at) == (2, NOW + 3 * SERIES, NOW + 3 * SERIES + 5)


def test_code_that_uses_the_ledger_directly_is_named_as_well(hasty: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LedgerUnavailable), caplog.at_level(logging.INFO, "runhook.ledger"):
        hasty.read(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(9)"))
    assert "operation=unknown times=1" in caplog.messages[0]  # for tests are no part of it
