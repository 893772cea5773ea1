"""What a server is told of the start and of the stop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from receiver.web.lifespan import serve_lifespan


class Server:
    """Says that it starts, and then that it stops. `told`: what it heard, with the last line of each message."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self._says = ["lifespan.startup", "lifespan.shutdown"]

    async def run(self, opened: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        await serve_lifespan(opened, self._receive, self._send)

    async def _receive(self) -> Any:
        return {"type": self._says.pop(0)}

    async def _send(self, message: Any) -> None:
        last = message.get("message", "").rstrip().rpartition("\n")[2]
        self.told.append((message["type"].removeprefix("lifespan."), last))


async def test_it_is_told_when_all_is_open_and_when_all_is_closed() -> None:
    server = Server()

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        assert server.told == []
        yield
        server.told.append(("closed", ""))

    await server.run(opened)
    assert server.told == [("startup.complete", ""), ("closed", ""), ("shutdown.complete", "")]


async def test_what_cannot_be_opened_is_a_failed_start() -> None:
    server = Server()

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        raise OSError("the disk is gone")
        yield

    with pytest.raises(OSError, match="gone"):
        await server.run(opened)
    assert server.told == [("startup.failed", "OSError: the disk is gone")]


async def test_what_cannot_be_closed_is_a_failed_stop() -> None:
    server = Server()

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        yield
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        await server.run(opened)
    assert server.told == [("startup.complete", ""), ("shutdown.failed", "OSError: the disk is gone")]
