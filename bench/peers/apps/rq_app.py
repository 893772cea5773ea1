"""RQ. Its page "Notes on Performance" recommends SimpleWorker for jobs of milliseconds."""

from __future__ import annotations

from common import REDIS, store, webhook
from redis import Redis
from rq import Queue
from starlette.concurrency import run_in_threadpool

queue = Queue("results", connection=Redis.from_url(REDIS))


def deliver(body: str) -> None:
    """Run the job."""
    store(body)


async def enqueue(body: str) -> None:
    """Queue the job."""
    await run_in_threadpool(queue.enqueue, "rq_app.deliver", body, result_ttl=0)


app = webhook(enqueue)
