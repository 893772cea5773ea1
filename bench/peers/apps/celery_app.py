"""Celery with Redis, tasks acknowledged when they are done, no results kept."""

from __future__ import annotations

from celery import Celery
from common import REDIS, store, webhook
from starlette.concurrency import run_in_threadpool

celery = Celery("celery_app", broker=REDIS)
celery.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)


@celery.task(name="deliver")
def deliver(body: str) -> None:
    store(body)


async def enqueue(body: str) -> None:
    await run_in_threadpool(deliver.delay, body)


app = webhook(enqueue)
