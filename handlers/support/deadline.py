"""The deadline of a send."""

from __future__ import annotations

import time

from handlers.contract import Unavailable


class DeadlineExceeded(Unavailable):
    """The deadline has passed, or too little time is left."""


class Deadline:
    """The deadline of a send, `seconds` from now. `at`: by time.monotonic()."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def remaining(self, needed: float = 0.0) -> float:
        """Return the seconds left. Raises DeadlineExceeded unless more than `needed`."""
        left = self.at - time.monotonic()
        if left <= needed:
            raise DeadlineExceeded(f"not done within {self.seconds:g} s")
        return left
