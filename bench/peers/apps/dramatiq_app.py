"""Dramatiq, which acknowledges late. "Workers" in its guide: a process per core; `--threads` for tasks that wait."""

from __future__ import annotations

import dramatiq
from common import REDIS, store, webhook
from dramatiq.brokers.redis import RedisBroker
from starlette.concurrency import run_in_threadpool

dramatiq.set_broker(RedisBroker(url=REDIS))


@dramatiq.actor
def deliver(body: str) -> None:
    """Run the task."""
    store(body)


async def enqueue(body: str) -> None:
    """Queue the task."""
    await run_in_threadpool(deliver.send, body)


app = webhook(enqueue)
