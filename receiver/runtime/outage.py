"""What a job's body does while the ledger is away: log it once, and wait a moment before the next try.

Without the wait each new event would wake a job that fails at once. Knows no ledger: its caller does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

# Seconds between two tries.
RETRY_AFTER: Final = 1.0
# Seconds after which an outage that lasts is logged again.
LOG_EVERY: Final = 60.0
_POLL: Final = 0.05  # seconds between two checks whether the worker must stop


class Pause:
    """The pauses of one job's body during an outage. `name`: how its log lines begin, such as "dispatch"."""

    def __init__(self, log: logging.Logger, name: str) -> None:
        self._log = log
        self._name = name
        self._since: float | None = None
        self._logged_at = 0.0

    def wait(self, reason: object, stop: Callable[[], bool]) -> None:
        """Log that the ledger is away because of `reason`, and return after RETRY_AFTER, or once `stop()` is true."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._logged_at = now, float("-inf")
        if now - self._logged_at > LOG_EVERY:
            self._logged_at = now
            self._log.warning("%s.paused %s: what was acked is safe, and is tried again", self._name, reason)
        while time.monotonic() - now < RETRY_AFTER and not stop():
            time.sleep(_POLL)

    def end(self) -> None:
        """Log that the ledger answers again, if there was an outage."""
        if self._since is not None:
            self._log.warning("%s.resumed after=%.1f", self._name, time.monotonic() - self._since)
            self._since = None
