"""arq. Its reference (`arq.worker.Worker`): `max_jobs` at once instead of 10, `poll_delay` instead of 0.5 s."""

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
    """Run the job."""
    await store_async(body)


class WorkerSettings:
    """Settings for the command `arq`."""

    functions = (deliver,)
    redis_settings = RedisSettings.from_dsn(REDIS)
    keep_result = 0
    max_jobs = 32
    poll_delay = 0.01


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Open and close the connections of the web process."""
    _pool.append(await create_pool(RedisSettings.from_dsn(REDIS)))
    yield
    await _pool.pop().aclose()


async def enqueue(body: str) -> None:
    """Queue the job."""
    await _pool[0].enqueue_job("deliver", body)


app = webhook(enqueue, lifespan)
