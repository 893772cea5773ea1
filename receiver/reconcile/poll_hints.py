"""Hints: submissions whose result was too large to take, so that it should be fetched by polling, soon.

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
MOST: Final = 10_000
"""Hints in Redis; the oldest go first."""
_PENDING: Final = 1000
_TIMEOUT: Final = 0.5
_RETRY_EVERY: Final = 2.0


class HintWriter:
    """Notes hints, from one event loop."""

    def __init__(self, redis_url: str) -> None:
        self._client = connect_async(redis_url, timeout=_TIMEOUT, connect_timeout=_TIMEOUT, retries=0)
        self._bucket = TokenBucket(rate=20, burst=100)
        self._pending: dict[str, float] = {}
        self._retrying: asyncio.Task[None] | None = None

    async def note(self, submission_id: str) -> None:
        """Note that the result of `submission_id` should be polled. While Redis is away it is kept in memory."""
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
                pipeline.zadd(KEY, hints).zremrangebyrank(KEY, 0, -MOST - 1)
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
        """Let go of the connection, after one last try."""
        if self._retrying is not None:
            self._retrying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._retrying
        if self._pending:
            await self._flush()
        await self._client.aclose()


def take_hints(client: redis.Redis, count: int = 100) -> list[str]:
    """Up to `count` submission ids to poll, the oldest hint first; they leave Redis. Raises redis.RedisError."""
    popped: Any = client.zpopmin(KEY, count)
    return [member.decode(errors="replace") if isinstance(member, bytes) else str(member) for member, _ in popped]
