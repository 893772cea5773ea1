"""How long a request's head may take, on a real uvicorn with our protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from receiver.web import http_protocol

BOUND = 0.4
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        if scope["path"] == "/slow":
            await asyncio.sleep(BOUND * 3)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", BOUND)
    server = uvicorn.Server(uvicorn.Config(app, **http_protocol.options(lifespan="off", timeout_keep_alive=60)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


async def answers(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        async with asyncio.timeout(120):
            return await reader.read()
    finally:
        writer.close()


async def test_a_head_that_takes_too_long_is_refused(port: int) -> None:
    got = await answers(port, b"GET / HTTP/1.1\r\n", *(b"X: y\r\n" for _ in range(4)), pause=BOUND / 6)
    assert got.startswith(b"HTTP/1.1 408 Request Timeout")
    assert b'"code":"timed_out"' in got


async def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    assert (await answers(port)).startswith(b"HTTP/1.1 408 ")


async def test_the_second_head_of_a_connection_has_the_same_bound_as_the_first(port: int) -> None:
    got = await answers(port, REQUEST, b"GET / HTTP/1.1\r\n", pause=0.05)
    assert got.count(b"HTTP/1.1 204") == 1
    assert got.count(b"HTTP/1.1 408") == 1


async def test_an_answer_that_takes_long_comes_before_the_refusal_of_the_next_head(port: int) -> None:
    got = await answers(port, REQUEST.replace(b"/ ", b"/slow "), b"GET / HTTP/1.1\r\n", pause=0.05)
    assert [line.split()[1] for line in got.split(b"\r\n") if line.startswith(b"HTTP/")] == [b"204", b"408"]
