"""RQ: `rq worker-pool`, whose workers run jobs in their own process (a fork for each job is slower by far)."""

from __future__ import annotations

from common import REDIS, store, webhook
from redis import Redis
from rq import Queue
from starlette.concurrency import run_in_threadpool

queue = Queue("results", connection=Redis.from_url(REDIS))


def deliver(body: str) -> None:
    store(body)


async def enqueue(body: str) -> None:
    await run_in_threadpool(queue.enqueue, "rq_app.deliver", body, result_ttl=0)


app = webhook(enqueue)
