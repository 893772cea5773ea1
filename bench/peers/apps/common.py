"""What all peers share: check the signature, respond 202 once the task is on disk, and commit one row.

Each peer uses its library's safest settings: Valkey has every task on disk before the response, and tasks of a dead
worker run again if the library supports it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

REDIS = os.environ["PEER_REDIS"]
DATABASE = os.environ["PEER_DATABASE"]
SECRET = os.environ["PEER_SECRET"].encode()
# Connections of a process that commits on an event loop; equals the number of threads in dramatiq and Celery.
CONNECTIONS = 16

INSERT = """INSERT INTO results (run_id, status, output) VALUES (%s, %s, %s)
ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, output = excluded.output"""

_local = threading.local()
_pools: list[Any] = []


def webhook(
    enqueue: Callable[[str], Awaitable[object]],
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """Return the app that receives webhooks. `enqueue`: has a body on disk when it returns."""

    async def receive(request: Request) -> Response:
        body = await request.body()
        signature = hmac.digest(SECRET, body, hashlib.sha256).hex()
        if not hmac.compare_digest(signature, request.headers.get("x-skyvern-signature", "")):
            return Response(status_code=401)
        await enqueue(body.decode())
        return Response(b'{"accepted":true}', 202, media_type="application/json")

    return Starlette(routes=[Route("/webhooks/skyvern", receive, methods=["POST"])], lifespan=lifespan)


def store(body: str) -> None:
    """Commit the row of a run, over a connection of this thread."""
    run = json.loads(body)
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = psycopg.connect(DATABASE, autocommit=True)
    connection.execute(INSERT, (run["run_id"], run["status"], json.dumps(run["output"])))


async def store_async(body: str) -> None:
    """Commit the row of a run, over a connection of this process's pool."""
    if not _pools:  # the pool needs a running event loop
        from psycopg_pool import AsyncConnectionPool

        settings = {"autocommit": True}
        pool = AsyncConnectionPool(DATABASE, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False, kwargs=settings)
        _pools.append(pool)
        await pool.open()
    run = json.loads(body)
    async with _pools[0].connection() as connection:
        await connection.execute(INSERT, (run["run_id"], run["status"], json.dumps(run["output"])))
