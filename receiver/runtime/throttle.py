"""How many sends a sink's `rate`, or calls a key's, still allows, over all processes: a moving window in Redis.

The only user of limits.
"""

from __future__ import annotations

import redis


class Rate:
    """The rate of one sink, or of key "key/<id>". `limit`: (how many, in how many seconds: 1, 60 or 3600).

    Raises redis.RedisError.
    """

    def __init__(self, client: redis.Redis, sink: str, limit: tuple[int, float]) -> None:
        # Most processes have no rate to keep, and it takes as long to import as a tenth of all the rest.
        from limits import RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
        from limits.storage import RedisStorage
        from limits.strategies import MovingWindowRateLimiter

        amount, seconds = limit
        kinds = {1.0: RateLimitItemPerSecond, 60.0: RateLimitItemPerMinute, 3600.0: RateLimitItemPerHour}
        self._item = kinds[seconds](amount)
        self._sink = sink
        storage = RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix="runhook:rate")
        self._limiter = MovingWindowRateLimiter(storage)

    def take(self, wanted: int) -> int:
        """Take up to `wanted` sends out of the window. Returns how many there were to take."""
        for _ in range(3):
            count = min(wanted, self._limiter.get_window_stats(self._item, self._sink).remaining)
            if count <= 0:
                return 0
            if self._limiter.hit(self._item, self._sink, cost=count):
                return count
        return 0  # other workers were faster each time; the next look finds what is left
