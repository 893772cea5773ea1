"""Celery, acknowledging late. Its user guide, "Optimizing": a prefetch multiplier of 64 or 128 for short tasks;
"Concurrency": another pool than prefork for tasks that wait. Threads took less CPU than prefork here.
"""

from __future__ import annotations

from celery import Celery
from common import REDIS, store, webhook
from starlette.concurrency import run_in_threadpool

celery = Celery("celery_app", broker=REDIS)
celery.conf.update(
    task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=64, broker_connection_retry_on_startup=True
)


@celery.task(name="deliver")
def deliver(body: str) -> None:
    """Run the task."""
    store(body)


async def enqueue(body: str) -> None:
    """Queue the task."""
    await run_in_threadpool(deliver.delay, body)


app = webhook(enqueue)
