"""The database's time, told from what it answered last."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.ledger.database.database_clock import FRESH_FOR, DatabaseClock

EPOCH = 1_700_000_000.0


class Host:
    """A host with both of its clocks, and a database whose clock is `ahead` of its own."""

    def __init__(self, ahead: float = 0.0, booted: float = 5000.0) -> None:
        self.true = 0.0
        self.ahead = ahead
        self.booted = booted
        self.clock = DatabaseClock(lambda: self.booted + self.true, lambda: EPOCH + self.true)

    @property
    def database(self) -> float:
        return EPOCH + self.true + self.ahead

    def ask(self, out: float = 0.0005, back: float = 0.0005) -> None:
        """Ask the database, over a network that takes so many seconds each way."""
        asked_at = self.booted + self.true
        self.true += out
        answer = self.database
        self.true += back
        self.clock.add_reading(asked_at, self.booted + self.true, answer)

    @property
    def wrong_by(self) -> float:
        return self.clock.now() - self.database


def test_before_the_database_has_answered_the_hosts_clock_serves() -> None:
    host = Host(ahead=60)
    assert host.clock.now() == EPOCH
    assert host.clock.stale
    assert not host.clock.has_reading


@pytest.mark.parametrize("ahead", [0, 6, -6, 0.3, 86_400, -1e6])
def test_then_it_is_the_databases(ahead: float) -> None:
    host = Host(ahead)
    host.ask()
    host.true += 1.5
    assert abs(host.wrong_by) < 0.001
    assert not host.clock.stale
    host.true += FRESH_FOR
    assert host.clock.stale


@given(st.lists(st.tuples(st.floats(0.0001, 9), st.floats(0.0001, 9)), min_size=1, max_size=9))
def test_it_is_never_more_wrong_than_the_best_answer_could_be(delays: list[tuple[float, float]]) -> None:
    host = Host(ahead=6)
    for out, back in delays:
        host.ask(out, back)
    best = min((out + back) / 2 for out, back in delays)
    assert abs(host.wrong_by) <= best + host.true * 0.001


def test_time_continues_while_the_host_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, at = DatabaseClock(), time.clock_gettime
    asked_at = clock.since_boot()
    clock.add_reading(asked_at, asked_at, EPOCH)
    # When the clock that counts sleep jumps, and time.monotonic() does not
    monkeypatch.setattr(time, "clock_gettime", lambda name: at(name) + 60 * (name != time.CLOCK_REALTIME))
    assert clock.now() >= EPOCH + 60
    assert clock.stale


def test_slow_answer_counts_only_if_it_contradicts() -> None:
    host = Host(ahead=6)
    host.ask()
    host.ask(out=4, back=0.1)
    assert abs(host.wrong_by) < 0.01
    # When the database is another one after a failover, or a clock was set
    host.ahead = -20
    host.ask(out=0.4, back=0.1)
    assert abs(host.wrong_by) < 0.2


def test_small_step_of_the_database_clock_is_followed() -> None:
    host = Host()
    host.ask()
    host.ahead = 0.05
    host.ask()
    assert abs(host.wrong_by) < 0.001
