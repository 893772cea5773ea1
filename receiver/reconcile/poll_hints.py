"""Poll hints: submissions whose webhook was too large, so that their result should be polled for, soon.

A hint comes from a request that nobody has authenticated. So it is bounded in rate and number, and the worst that a
false one does is a poll too early. Losing one does no harm either: an overdue run is polled anyway.

    runhook:hints    sorted set: submission id → when, in seconds since the epoch
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

import redis

from receiver.runtime.redis_client import connect_async
from receiver.runtime.throttle import TokenBucket

KEY: Final = "runhook:hints"
# Hints in Redis; the oldest are dropped first.
MAX_HINTS: Final = 10_000
_PENDING: Final = 1000
_TIMEOUT: Final = 0.5
_RETRY_EVERY: Final = 2.0


class PollHintWriter:
    """Writes poll hints, from one event loop."""

    def __init__(self, redis_url: str) -> None:
        self._client = connect_async(redis_url, timeout=_TIMEOUT, connect_timeout=_TIMEOUT, retries=0)
        self._bucket = TokenBucket(rate=20, burst=100)
        self._pending: dict[str, float] = {}
        self._retrying: asyncio.Task[None] | None = None

    async def add(self, submission_id: str) -> None:
        """Add a hint that `submission_id` should be polled. While Redis is away it is kept in memory."""
        if not self._bucket.take(1, time.monotonic()) or len(self._pending) >= _PENDING:
            return
        self._pending[submission_id] = time.time()
        if self._retrying is None or self._retrying.done():
            if await self._flush():
                return
            self._retrying = asyncio.create_task(self._retry())

    async def _flush(self) -> bool:
        hints = dict(self._pending)
        try:
            async with asyncio.timeout(_TIMEOUT):
                pipeline: Any = self._client.pipeline(transaction=True)
                pipeline.zadd(KEY, hints).zremrangebyrank(KEY, 0, -MAX_HINTS - 1)
                await pipeline.execute()
        except (redis.RedisError, OSError, TimeoutError):
            return False
        for submission_id in hints:
            self._pending.pop(submission_id, None)
        return True

    async def _retry(self) -> None:
        while self._pending:
            await asyncio.sleep(_RETRY_EVERY)
            await self._flush()

    async def close(self) -> None:
        """Close the connection, after one last try."""
        if self._retrying is not None:
            self._retrying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._retrying
        if self._pending:
            await self._flush()
        await self._client.aclose()


def pop_poll_hints(client: redis.Redis, count: int = 100) -> list[str]:
    """Remove and return up to `count` submission ids to poll, the oldest first. Raises redis.RedisError."""
    popped: Any = client.zpopmin(KEY, count)
    return [member.decode(errors="replace") if isinstance(member, bytes) else str(member) for member, _ in popped]
