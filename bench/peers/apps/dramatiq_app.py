"""Dramatiq with Redis: its workers acknowledge a message when it is done, by default."""

from __future__ import annotations

import dramatiq
from common import REDIS, store, webhook
from dramatiq.brokers.redis import RedisBroker
from starlette.concurrency import run_in_threadpool

dramatiq.set_broker(RedisBroker(url=REDIS))


@dramatiq.actor
def deliver(body: str) -> None:
    store(body)


async def enqueue(body: str) -> None:
    await run_in_threadpool(deliver.send, body)


app = webhook(enqueue)
