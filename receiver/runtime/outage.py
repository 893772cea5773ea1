"""What a job's body does while the ledger is away: say so once, and wait a moment before it is tried again.

Without the wait each new event would ring for a job that fails at once. Knows no ledger: it is told.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

BETWEEN: Final = 1.0
"""Seconds between two tries."""
AGAIN_AFTER: Final = 60.0
"""Seconds after which a trouble that lasts is told again."""
_LOOK: Final = 0.05  # seconds between two looks at whether the worker must stop


class Pause:
    """The pauses of one job's body. `name`: how its log lines begin, such as "dispatch"."""

    def __init__(self, log: logging.Logger, name: str) -> None:
        self._log = log
        self._name = name
        self._since: float | None = None
        self._told = 0.0

    def take(self, reason: str, stop: Callable[[], bool]) -> None:
        """The ledger is away because of `reason`: return when it is time to try again, or `stop()` says so."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._told = now, float("-inf")
        if now - self._told > AGAIN_AFTER:
            self._told = now
            self._log.warning("%s.paused %s: what was acked is safe, and is tried again", self._name, reason)
        while time.monotonic() - now < BETWEEN and not stop():
            time.sleep(_LOOK)

    def over(self) -> None:
        """The ledger answers."""
        if self._since is not None:
            self._log.warning("%s.resumed after=%.1fs", self._name, time.monotonic() - self._since)
            self._since = None
