"""How often something may happen that a stranger can cause. Pure: the time is passed in."""

from __future__ import annotations


class Allowance:
    """A bucket that holds up to `burst` and is refilled at `rate` a second."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def take(self, amount: float, now: float) -> bool:
        """Take `amount` if there is so much at `now` (seconds, never going back). False: nothing is taken."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True
