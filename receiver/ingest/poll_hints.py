"""Poll hints: runs whose webhook was too large, so that their result should be polled for, soon.

A hint comes from an unauthenticated request. So hints are bounded in rate and number, and the worst that a false one
does is a poll too early. Losing one does no harm either: an overdue run is polled anyway, and a watched source is
walked.

    runhook:hints   sorted set: source and run id → when, in seconds since the epoch
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from typing import Any, Final

import redis

from receiver.domain.run import RunKey
from receiver.runtime.redis_client import connect_async
from receiver.runtime.throttle import TokenBucket

KEY: Final = "runhook:hints"
# Hints in Redis; the oldest are dropped first.
MAX_HINTS: Final = 500
# What a hint looks like; other programs may write that key.
_FORM = re.compile(rb"([A-Za-z0-9_-]{1,63}) ([A-Za-z0-9_-]{1,200})")
_TIMEOUT: Final = 0.5


class PollHintWriter:
    """Writes poll hints, from one event loop. While Redis is down, hints are dropped."""

    def __init__(self, redis_url: str) -> None:
        self._client = connect_async(redis_url, timeout=_TIMEOUT, connect_timeout=_TIMEOUT, retries=0)
        self._bucket = TokenBucket(rate=0.5, burst=20)

    def take(self) -> bool:
        """Take one hint from the budget; False if it is used up."""
        return self._bucket.take(1, time.monotonic())

    async def add(self, source: str, run_id: str) -> None:
        """Add a hint that a run should be polled, once `take` allows it."""
        with suppress(redis.RedisError, OSError, RuntimeError, TimeoutError):  # RuntimeError: uvloop, after a reset
            async with asyncio.timeout(_TIMEOUT):
                pipeline: Any = self._client.pipeline(transaction=True)
                pipeline.zadd(KEY, {f"{source} {run_id}": time.time()}).zremrangebyrank(KEY, 0, -MAX_HINTS - 1)
                await pipeline.execute()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def pop_hints(client: redis.Redis, count: int) -> list[RunKey]:
    """Remove and return up to `count` runs to poll, (source, run id) each. Raises redis.RedisError."""
    popped: Any = client.zpopmin(KEY, count)
    hints = (found for member, _ in popped if (found := _FORM.fullmatch(member)))
    return [(hint[1].decode(), hint[2].decode()) for hint in hints]
