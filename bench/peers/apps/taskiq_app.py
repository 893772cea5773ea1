"""Taskiq over a Redis stream, its broker that acknowledges. "CLI" in its guide: 2 workers, 100 tasks each at once.

The same page has `--max-prefetch` for high message rates, which made no difference here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common import REDIS, store_async, webhook
from starlette.applications import Starlette
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(url=REDIS, consumer_id="0")


@broker.task(task_name="deliver")
async def deliver(body: str) -> None:
    """Run the task."""
    await store_async(body)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Open and close the broker of the web process."""
    await broker.startup()
    yield
    await broker.shutdown()


app = webhook(deliver.kiq, lifespan)
