"""Taskiq over a Redis stream, its broker that acknowledges."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from common import REDIS, store_async, webhook
from starlette.applications import Starlette
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(url=REDIS, consumer_id="0")


@broker.task(task_name="deliver")
async def deliver(body: str) -> None:
    await store_async(body)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


app = webhook(deliver.kiq, lifespan)
