"""ASGI's lifespan: what a server says when it starts and when it has stopped."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any


async def serve_lifespan(
    opened: Callable[[], AbstractAsyncContextManager[Any]],
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Enter `opened()` when the server starts, leave it when it stops, and tell the server how that went."""
    step = "startup"
    await receive()
    try:
        async with opened():
            await send({"type": "lifespan.startup.complete"})
            step = "shutdown"
            await receive()
    except BaseException:
        await send({"type": f"lifespan.{step}.failed", "message": traceback.format_exc()})
        raise
    await send({"type": "lifespan.shutdown.complete"})
