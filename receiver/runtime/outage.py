"""The pause of a loop while a server is unavailable: logged once, then each minute, until it is back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

# Seconds between two tries.
RETRY_AFTER: Final = 1.0
# Seconds after which an outage that lasts is logged again.
LOG_EVERY: Final = 60.0
_POLL: Final = 0.05  # seconds between two checks whether the loop must stop


class Pause:
    """The pauses of one loop. `name`: how its log lines begin, such as "dispatch"."""

    def __init__(self, log: logging.Logger, name: str) -> None:
        self._log = log
        self._name = name
        self._since = self._logged_at = 0.0

    def wait(self, reason: object, stop: Callable[[], bool]) -> None:
        """Log `reason`, and return after RETRY_AFTER, or once `stop()` is true."""
        now = time.monotonic()
        self._since = self._since or now
        if not self._logged_at or now - self._logged_at > LOG_EVERY:
            self._logged_at = now
            self._log.warning("%s.paused %s: what was acked is safe, and is tried again", self._name, reason)
        while time.monotonic() - now < RETRY_AFTER and not stop():
            time.sleep(_POLL)

    def end(self) -> None:
        """Log that work resumes, if it was paused."""
        if self._since:
            self._log.warning("%s.resumed after=%.1f", self._name, time.monotonic() - self._since)
            self._since = self._logged_at = 0.0
