"""Poll hints: submissions and runs whose webhook was too large, so that their result should be polled for, soon.

A hint comes from an unauthenticated request. So it is bounded in rate and number, those of runs that were
not submitted here more than the others, and the worst that a false one does is a poll too early. Losing one does no
harm either: an overdue run is polled anyway, and a watched source is walked.

    runhook:hints         sorted set: submission id → when, in seconds since the epoch
    runhook:hints:runs    sorted set: source and run id → when
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
RUNS_KEY: Final = "runhook:hints:runs"
# Hints in Redis; the oldest are dropped first.
MAX_HINTS: Final = 10_000
MAX_RUN_HINTS: Final = 500
# What a hint may look like; all else that stands there is not ours.
_SUBMISSION = re.compile(r"[A-Za-z0-9_-]{1,128}")
_RUN = re.compile(r"([A-Za-z0-9_-]{1,63}) ([A-Za-z0-9_-]{1,200})")
_TIMEOUT: Final = 0.5


class PollHintWriter:
    """Writes poll hints, from one event loop. While Redis is down, hints are dropped."""

    def __init__(self, redis_url: str) -> None:
        self._client = connect_async(redis_url, timeout=_TIMEOUT, connect_timeout=_TIMEOUT, retries=0)
        self._bucket = TokenBucket(rate=20, burst=100)
        self._run_bucket = TokenBucket(rate=0.5, burst=20)

    async def add(self, submission_id: str) -> None:
        """Add a hint that `submission_id` should be polled."""
        if self._bucket.take(1, time.monotonic()):
            await self._add(KEY, submission_id, MAX_HINTS)

    def takes_runs(self) -> bool:
        """Take one hint of a run from their budget; False if it is used up."""
        return self._run_bucket.take(1, time.monotonic())

    async def add_run(self, source: str, run_id: str) -> None:
        """Add a hint that a run should be polled, once `takes_runs` allows it."""
        await self._add(RUNS_KEY, f"{source} {run_id}", MAX_RUN_HINTS)

    async def _add(self, key: str, member: str, most: int) -> None:
        with suppress(redis.RedisError, OSError, RuntimeError, TimeoutError):  # RuntimeError: uvloop, after a reset
            async with asyncio.timeout(_TIMEOUT):
                pipeline: Any = self._client.pipeline(transaction=True)
                await pipeline.zadd(key, {member: time.time()}).zremrangebyrank(key, 0, -most - 1).execute()

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()


def pop_poll_hints(client: redis.Redis, count: int = 100) -> list[str]:
    """Remove and return up to `count` submission ids to poll, the oldest first. Raises redis.RedisError."""
    return [member for member in _pop(client, KEY, count) if _SUBMISSION.fullmatch(member)]


def pop_run_hints(client: redis.Redis, count: int) -> list[RunKey]:
    """Remove and return up to `count` runs to poll, (source, run id) each. Raises redis.RedisError."""
    return [(found[1], found[2]) for member in _pop(client, RUNS_KEY, count) if (found := _RUN.fullmatch(member))]


def _pop(client: redis.Redis, key: str, count: int) -> list[str]:
    popped: Any = client.zpopmin(key, count)
    return [member.decode(errors="replace") if isinstance(member, bytes) else str(member) for member, _ in popped]
