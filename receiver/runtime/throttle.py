"""Limit how often something happens: a bucket of one process, a moving window in Redis over all, and both together.

The only user of `limits`. A limit is (how many, in how many seconds: 1, 60 or 3600); how it is written is not known
here.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import redis

# Seconds that a process counts locally after Redis failed.
LOCAL_FOR: Final = 5.0


class TokenBucket:
    """A bucket that holds up to `burst` and is refilled at `rate` a second. Reads no clock: the time is passed in."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = 0.0

    def take(self, amount: float, now: float) -> bool:
        """Take `amount` if the bucket holds it at `now` (seconds, never going back). False: nothing is taken."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True


class SharedRate:
    """The rate of one name over all processes, such as a sink's. Raises redis.RedisError."""

    def __init__(self, client: redis.Redis, name: str, limit: tuple[int, float]) -> None:
        # Most processes have no rate to keep, and it takes as long to import as a tenth of all the rest.
        from limits import RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
        from limits.storage import RedisStorage
        from limits.strategies import MovingWindowRateLimiter

        amount, seconds = limit
        kinds = {1.0: RateLimitItemPerSecond, 60.0: RateLimitItemPerMinute, 3600.0: RateLimitItemPerHour}
        self._item = kinds[seconds](amount)
        self._name = name
        storage = RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix="runhook:rate")
        self._limiter = MovingWindowRateLimiter(storage)

    def take(self, most: int) -> int:
        """Take up to `most` out of the window. Return how many there were."""
        for _ in range(3):
            count = min(most, self._limiter.get_window_stats(self._item, self._name).remaining)
            if count <= 0 or self._limiter.hit(self._item, self._name, cost=count):
                return max(count, 0)
        return 0  # other processes were faster each time; the next try finds what is left


class RateLimits:
    """Limits by name: over all processes while Redis is there, of this process alone for a while after it failed."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._known: dict[tuple[str, tuple[int, float]], tuple[SharedRate, TokenBucket]] = {}
        self._lock = threading.Lock()
        self._local_until = 0.0

    def take(self, name: str, limit: tuple[int, float], count: int = 1) -> int:
        """Return how many of `count` may happen now. Safe to call from any thread."""
        with self._lock:
            if (name, limit) not in self._known:
                amount, seconds = limit
                self._known[name, limit] = SharedRate(self._client, name, limit), TokenBucket(amount / seconds, amount)
            shared, local = self._known[name, limit]
        if time.monotonic() >= self._local_until:
            try:
                return shared.take(count)
            except redis.RedisError:
                self._local_until = time.monotonic() + LOCAL_FOR
        with self._lock:
            return sum(local.take(1, time.monotonic()) for _ in range(count))
