"""Follow the database's clock, so that processes on all hosts agree on what is due.

Hosts' clocks differ by seconds, so work due on one host would be late or early on another. Reading the time in each
statement would cost a round trip. Instead it is read with a BEGIN every few seconds, and continued by the clock that
counts from the boot: it is never set, and counts the time that the host sleeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import sqlalchemy as sa

from receiver.ledger.database import dialect

# Seconds after which the time is read again.
FRESH_FOR: Final = 2.0
# Maximum drift between two clocks, in seconds per second.
_DRIFT: Final = 0.0005
# macOS has no CLOCK_BOOTTIME, but its CLOCK_MONOTONIC counts sleep. time.monotonic() never does.
_BOOT: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def since_boot() -> float:
    """Return the seconds since the boot, including those that the host slept."""
    return time.clock_gettime(_BOOT)


class _Reading(NamedTuple):
    """How far the database's clock is ahead of `since_boot`, within `error` seconds, at `at` (since the boot)."""

    ahead: float
    error: float
    at: float


class DatabaseClock:
    """Computes the database's time from its last reading; before the first one, and for SQLite, the host's time."""

    def __init__(self, since_boot: Callable[[], float] = since_boot, host: Callable[[], float] | None = None) -> None:
        self.since_boot = since_boot
        self._host = host or time.time
        self._reading: _Reading | None = None
        self._asked_at = float("-inf")

    def now(self) -> float:
        """Return the time, in seconds since the epoch. Neither waits nor raises."""
        return self.since_boot() + self._reading.ahead if self._reading else self._host()

    @property
    def has_reading(self) -> bool:
        """Whether the database's clock has been read."""
        return self._reading is not None

    @property
    def stale(self) -> bool:
        """Whether the database's clock should be read again."""
        return self.since_boot() - self._asked_at > FRESH_FOR

    def add_reading(self, asked_at: float, answered_at: float, answer: float) -> None:
        """Record a reading `answer`. `asked_at`, `answered_at`: by `since_boot`.

        A slow reading is inaccurate, and does not replace a better one, unless the two contradict each other: then a
        clock was set, or the database has changed.
        """
        self._asked_at = answered_at
        new = _Reading(answer - (asked_at + answered_at) / 2, (answered_at - asked_at) / 2, answered_at)
        old = self._reading
        if old is not None:
            error = old.error + (answered_at - old.at) * _DRIFT
            if new.error > error and abs(new.ahead - old.ahead) <= new.error + error:
                return
        self._reading = new


def database_now(connection: sa.Connection) -> float:
    """Return the database's time in seconds since the epoch; for SQLite, the host's."""
    return connection.execute(sa.select(dialect.now(connection))).scalar_one()
