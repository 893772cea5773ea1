"""arq: one process that runs many jobs on its event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import ArqRedis, create_pool
from arq.connections import RedisSettings
from common import REDIS, store_async, webhook
from starlette.applications import Starlette

_pool: list[ArqRedis] = []


async def deliver(_context: dict[str, Any], body: str) -> None:
    await store_async(body)


class WorkerSettings:
    functions = (deliver,)
    redis_settings = RedisSettings.from_dsn(REDIS)
    keep_result = 0


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    _pool.append(await create_pool(RedisSettings.from_dsn(REDIS)))
    yield
    await _pool.pop().aclose()


async def enqueue(body: str) -> None:
    await _pool[0].enqueue_job("deliver", body)


app = webhook(enqueue, lifespan)
