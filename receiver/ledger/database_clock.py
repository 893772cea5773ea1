"""The time by which all processes agree on what is due: the database's, on whichever host they run.

Hosts' clocks differ by seconds, and what one host makes due now would be late, or early, on another. Asking for the
time in each statement would cost a request each; so it is asked for along with a BEGIN every few seconds, and counted
on from there by the monotonic clock, which no one sets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import sqlalchemy as sa

from receiver.ledger import dialect

# Seconds after which the time is asked for again.
FRESH_FOR: Final = 2.0
# Seconds by which two clocks may drift apart in a second.
_DRIFT: Final = 0.0005


class _Reading(NamedTuple):
    """What the database's clock is ahead of the monotonic one, within `error` seconds, as of `at` (monotonic)."""

    ahead: float
    error: float
    at: float


class DatabaseClock:
    """Tells the database's time from what it answered last; until it has answered, and for SQLite, the host's."""

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, host: Callable[[], float] | None = None
    ) -> None:
        self._monotonic = monotonic
        self._host = host or time.time
        self._reading: _Reading | None = None
        self._asked_at = float("-inf")

    def now(self) -> float:
        """Return the time, in seconds since the epoch. Neither waits nor raises."""
        return self._monotonic() + self._reading.ahead if self._reading else self._host()

    @property
    def known(self) -> bool:
        """Whether the database has answered once."""
        return self._reading is not None

    @property
    def stale(self) -> bool:
        """Whether the database should be asked for its time."""
        return self._monotonic() - self._asked_at > FRESH_FOR

    def note(self, asked_at: float, answered_at: float, answer: float) -> None:
        """Take an `answer` to ASK. `asked_at`, `answered_at`: by the monotonic clock.

        An answer that took long says little, and does not replace a better one, unless it contradicts that: then one of
        the clocks was set, or the database is another one.
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
    """Ask the database for its time, in seconds since the epoch; SQLite's is the host's."""
    return connection.execute(sa.select(dialect.now(connection))).scalar_one()
