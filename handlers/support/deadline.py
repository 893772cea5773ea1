"""A point in time by which everything in one send must end. Knows no network."""

from __future__ import annotations

import time

from handlers.contract import Unavailable


class DeadlineExceeded(Unavailable):
    """The deadline has passed, or too little time is left. It does not say what took the time."""


class Deadline:
    """The point in time, `seconds` from now, by which everything in one send must end. `at`: by time.monotonic()."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def remaining(self, needed: float = 0.0) -> float:
        """Return the seconds that are left. Raises DeadlineExceeded unless they are more than `needed`."""
        left = self.at - time.monotonic()
        if left <= needed:
            raise DeadlineExceeded(f"not done within {self.seconds:g} s")
        return left
