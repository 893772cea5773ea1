"""Requests as they came, replies, errors, streams, server-sent events, and what ends when a caller disconnects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from receiver.runtime.background import awaited
from receiver.skyvern.client import BrokenOff
from receiver.web.component import ABORT

# Server-sent events, as the HTML standard defines text/event-stream.
SSE_HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no", "content-type": "text/event-stream"}
# Seconds between two signs of life in a stream: proxies close a connection that is silent for a minute.
SSE_KEEP_ALIVE: Final = 15.0

log = logging.getLogger("runhook.web")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response to a caller."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def with_headers(self, **more: str) -> Reply:
        """Return this reply with more headers; underscores stand for hyphens."""
        return Reply(self.status, self.body, {**self.headers, **{k.replace("_", "-"): v for k, v in more.items()}})


def error(status: int, detail: Any, **headers: str) -> Reply:
    """Return an error in Skyvern's shape: {"detail": …}. Underscores in header names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps({"detail": detail}).encode(), {"content-type": "application/json", **named})


class Refusal(Exception):
    """The call is not served: `reply` is the response to it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def path_of(request: Request) -> str:
    """Return the path as it was on the wire."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.split(b"?")[0].decode("latin-1")


def address_of(request: Request) -> str:
    """Return the client's address, as a trusted proxy names it; "" on a Unix socket."""
    return request.client.host if request.client else ""


def query_of(request: Request) -> str:
    """Return the query as it was on the wire: ASCII, for the server refuses all else."""
    query: bytes = request.scope["query_string"]
    return query.decode("latin-1")


def to_response(reply: Reply) -> Response:
    """Return the response that `reply` stands for."""
    return Response(reply.body, reply.status, dict(reply.headers))


async def chunks_of(request: Request, limit: int, seconds: float) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes. Raises Refusal for more than `limit` bytes, and when it takes too long."""
    received, deadline = 0, asyncio.get_running_loop().time() + seconds
    chunks = request.stream()
    try:
        while True:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(chunks)
            received += len(chunk)
            if received > limit:
                raise Refusal(error(413, f"The body is over {limit} bytes"))
            yield chunk
    except StopAsyncIteration:
        return
    except TimeoutError:
        raise Refusal(error(408, "The body did not come in time", connection="close")) from None


class Body(Protocol):
    """A body in chunks that must be closed."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the chunks."""

    async def aclose(self) -> None:
        """Release what it holds."""


class StreamedResponse(StreamingResponse):
    """A body in chunks that is closed however its response ends: a caller may disconnect before the first one, too.

    `on_close`: called then. A body that must not, or cannot, continue breaks off the connection: what the caller has
    got must not look complete.
    """

    def __init__(
        self, body: Body, status: int, headers: Mapping[str, str], on_close: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(self._until_broken(body), status, headers)
        self._body = body
        self._on_close = on_close
        self._abort: Callable[[], None] | None = None

    async def _until_broken(self, body: Body) -> AsyncIterator[bytes]:
        try:
            async for chunk in body:
                yield chunk
        except BrokenOff as problem:
            if self._abort is None:
                raise
            log.warning("web.cut_off status=%d reason=%r", self.status_code, problem.__doc__)
            self._abort()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._abort = scope.get("extensions", {}).get(ABORT)
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._body.aclose()
            self._on_close()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Return what `work` returns; cancel it and raise ClientDisconnect when the caller disconnects."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, disconnect = awaited(work, "web.work"), awaited(disconnected(), "web.disconnect")
    both: list[asyncio.Future[Any]] = [task, disconnect]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in both:
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each


def sse_event(kind: str, event_id: str, data: bytes) -> bytes:
    """Return one event. `event_id`: sent back as Last-Event-ID; "" keeps the last one. `data` may have lines."""
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines() or [b""])
    return (
        b"event: " + kind.encode() + b"\n" + (b"id: " + event_id.encode() + b"\n" if event_id else b"") + lines + b"\n"
    )


def sse_keep_alive(event_id: str = "") -> bytes:
    """Return an SSE keep-alive comment. `event_id`: as of an event."""
    return b": still here\n" + (b"id: " + event_id.encode() + b"\n" if event_id else b"") + b"\n"


def sse_retry(seconds: float) -> bytes:
    """Return the field with the seconds that a client waits before it reconnects."""
    return b"retry: %d\n\n" % int(seconds * 1000)
