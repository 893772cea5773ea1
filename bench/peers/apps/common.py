"""What all peers do alike: check the signature, answer 202 once the task is queued, and write one row.

As plain as an app is that somebody writes in an afternoon, and as safe as its library is when it is asked to be: the
broker has every task on disk before the answer, and a task that was taken by a worker that died is tried again, where
the library can do that.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import psycopg
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

REDIS = os.environ["PEER_REDIS"]
DATABASE = os.environ["PEER_DATABASE"]
SECRET = os.environ["PEER_SECRET"].encode()

INSERT = """INSERT INTO results (run_id, status, output) VALUES (%s, %s, %s)
ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, output = excluded.output"""

_local = threading.local()
_pools: list[AsyncConnectionPool] = []


def webhook(
    enqueue: Callable[[str], Awaitable[object]],
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """Return the app that takes webhooks. `enqueue`: has a body on disk when it returns."""

    async def receive(request: Request) -> Response:
        body = await request.body()
        signature = hmac.digest(SECRET, body, hashlib.sha256).hex()
        if not hmac.compare_digest(signature, request.headers.get("x-skyvern-signature", "")):
            return Response(status_code=401)
        await enqueue(body.decode())
        return Response(b'{"accepted":true}', 202, media_type="application/json")

    return Starlette(routes=[Route("/webhooks/skyvern", receive, methods=["POST"])], lifespan=lifespan)


def store(body: str) -> None:
    """Write the row of a run, over a connection of this thread."""
    run = json.loads(body)
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = psycopg.connect(DATABASE, autocommit=True)
    connection.execute(INSERT, (run["run_id"], run["status"], json.dumps(run["output"])))


async def store_async(body: str) -> None:
    """Write the row of a run, over a connection of this process's pool."""
    if not _pools:  # they belong to the event loop, which is there only now
        _pools.append(AsyncConnectionPool(DATABASE, min_size=4, max_size=10, open=False, kwargs={"autocommit": True}))
        await _pools[0].open()
    run = json.loads(body)
    async with _pools[0].connection() as connection:
        await connection.execute(INSERT, (run["run_id"], run["status"], json.dumps(run["output"])))
