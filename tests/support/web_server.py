"""An ASGI application behind the receiver's own server settings, on a port of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import uvicorn
import uvloop


class Served(NamedTuple):
    """`serving`: the server's run, which ends when it has stopped."""

    server: uvicorn.Server
    port: int
    serving: asyncio.Task[None]


@asynccontextmanager
async def serve(app: Any, options: dict[str, Any]) -> AsyncIterator[Served]:
    """Serve `app` with `options` of uvicorn.Config, and stop at the end."""
    server = uvicorn.Server(uvicorn.Config(app, **options))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # A loop of its own, for uvloop's transports differ from asyncio's.
        serving = asyncio.create_task(asyncio.to_thread(uvloop.run, server.serve([listener])))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            yield Served(server, listener.getsockname()[1], serving)
        finally:
            server.should_exit = True
            await serving
