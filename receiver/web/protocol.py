"""uvicorn's HTTP protocol, with limits on what a client sends, and with errors in Runhook's JSON shape.

    head           at most MAX_HEAD bytes and MAX_FIELDS fields, within `Seconds.head`; the same for a silent connection
    pipelining     at most MAX_PIPELINED requests; those that are complete are answered before what follows is refused
    connections    at most `Listening.limit` on each port; more get 503 with Retry-After; idle ones are closed before
    responses      a client that takes nothing of one for `Seconds.unread` is disconnected

Bodies are limited by the endpoints that read them. A proxy does the rest: docs/how-to/deployment.md.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.errors import BadRequest, Busy, HeadTooLarge, RequestError, TimedOut
from receiver.web.component import ABORT

MAX_HEAD: Final = 64 << 10
MAX_FIELDS: Final = 200
# Requests that may wait on a connection for the response before them. Skyvern, and proxies, send one at a time.
MAX_PIPELINED: Final = 16
# Seconds for which an idle connection stays open: longer than proxies keep theirs (nginx and AWS 60 s).
KEEP_ALIVE: Final = 75
# Part of the limit above which idle connections are closed at once, the oldest first.
CROWDED: Final = 0.75
# What is still read after a refusal, so that a client that sends everything first sees the response and not a reset.
DRAIN_BYTES: Final = 4 << 20
# Maximum connections over the limit that get a 503 at a time; more are closed without a response.
_TURNED_AWAY: Final = 16


class Seconds(NamedTuple):
    """Time limits of a connection. `piece`: until the first piece of a body. `body`: for all of it; the endpoints have
    shorter ones, which begin with that piece. `unread`: for a response that its client does not take. `drain`: in which
    the rest of a refused request is read. `sweep`: between two checks. `first`: for a new connection to send its first
    request when the server stops."""

    head: float = 10.0
    piece: float = 30.0
    body: float = 150.0
    unread: float = 30.0
    drain: float = 3.0
    sweep: float = 1.0
    first: float = 1.0


class Listening:
    """The connections of one listening socket, and their limits. Calling it makes a connection, as uvicorn expects.

    `limit`: most connections. `extensions`: added to the ASGI scope of each request.
    """

    def __init__(self, limit: int, extensions: Mapping[str, Any] | None = None, seconds: Seconds | None = None) -> None:
        self.seconds = seconds or Seconds()
        self.limit = limit
        self.extensions = extensions or {}
        self.peers: dict[HTTPProtocol, None] = {}  # the oldest first
        # Connections that were ended, by reason.
        self.ended = {"slow": 0, "too_many": 0, "idle": 0}
        self._sweeper: asyncio.TimerHandle | None = None

    def __call__(self, **named: Any) -> HTTPProtocol:
        """Return the protocol of a new connection."""
        protocol = HTTPProtocol(self, **named)
        if self._sweeper is None:
            self._sweeper = protocol.loop.call_later(self.seconds.sweep, self._sweep, protocol.loop)
        return protocol

    def gauges(self) -> dict[str, int]:
        """Return the number of open connections, and of those in the middle of a head or a body."""
        heads, bodies = (sum(getattr(peer, name) for peer in self.peers) for name in ("in_head", "in_body"))
        return {"open": len(self.peers), "head": heads, "body": bodies}

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweeper = loop.call_later(self.seconds.sweep, self._sweep, loop) if self.peers else None
        crowd = len(self.peers) - int(self.limit * CROWDED)
        for peer in list(self.peers):
            peer.check(loop.time())
            if crowd > 0 and peer.is_idle():
                crowd -= 1
                self.ended["idle"] += 1
                peer.transport.close()


class HTTPProtocol(HttpToolsProtocol):
    """One connection. Its methods are the callbacks of uvicorn and httptools."""

    def __init__(self, listener: Listening, **named: Any) -> None:
        super().__init__(**named)
        self.parser = _Parser(self)
        self._listener = listener
        self._extensions = {ABORT: self.abort, **listener.extensions}
        self.in_head, self.in_body = True, False
        self._body_begun = False
        self._running: Any = None  # of pipelined requests not the newest, which is `self.cycle`
        self._unparsed = 0  # bytes received since a head or a piece of a body was complete
        self._since: float | None = None  # when the head or body that is being received began
        self._unsent, self._unsent_since = 0, 0.0
        self._refusal: RequestError | None = None  # the last response of the connection
        self._drained = 0  # bytes received after it
        self._stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection. One too many is refused."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._listener.peers[self] = None
        over = len(self._listener.peers) - self._listener.limit
        if over <= 0:
            return
        self._listener.ended["too_many"] += 1
        if over > _TURNED_AWAY:
            transport.abort()
        else:
            self._refuse(Busy("too many connections"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its requests."""
        self._listener.peers.pop(self, None)
        self._disconnect()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End the connection with its response, as uvicorn does, but let a new one send its first request."""
        request: Any = self.cycle  # None before the first one
        if request is None and not self._stopping:
            self._stopping = True
            self.loop.call_later(self._listener.seconds.first, self.shutdown)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Parse `data`, or drop it if the last response was given."""
        if self._refusal is not None:
            self._drained += len(data)
            if self._drained > DRAIN_BYTES:
                self.transport.close()
            return
        if self._since is None:
            self._since = self.loop.time()
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD:  # a head, or what follows the last chunk of a body
            self._refuse(HeadTooLarge("the head of the request is too large"))
        elif self.in_head and self.headers and len(self.headers) > MAX_FIELDS:
            self._refuse(HeadTooLarge("the request has too many headers"))

    # What httptools calls. A callback that raises ends with `send_400_response`.

    def on_message_begin(self) -> None:
        """Begin a request. Raises BadRequest if too many wait."""
        if len(self.pipeline) >= MAX_PIPELINED and self._refusal is None:
            raise BadRequest("too many requests at once")
        self.in_head = True
        if self._since is None:  # it came together with the request before it
            self._since = self.loop.time()
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def on_headers_complete(self) -> None:
        """Start the request. Raises HeadTooLarge for a head that came in one piece and is too large."""
        if self._upgrades():
            return
        if len(self.headers) > MAX_FIELDS:
            raise HeadTooLarge("the request has too many headers")
        if self._unparsed > MAX_HEAD and len(self.url) + sum(len(a) + len(b) + 4 for a, b in self.headers) > MAX_HEAD:
            raise HeadTooLarge("the head of the request is too large")
        self.scope["headers"] = self.headers.copy()  # the parser adds fields behind a chunked body to the others
        super().on_headers_complete()  # raises for an invalid target
        if not self.pipeline:
            self._running = self.cycle
        self.in_head, self.in_body, self._body_begun = False, True, False
        self._unparsed, self._since = 0, self.loop.time()

    def _upgrades(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        self._unparsed, self._body_begun = 0, True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        if self._upgrades():
            return  # it has not begun
        self.in_body = False
        self._unparsed, self._since = 0, None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the next request that waits."""
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not valid HTTP, or what a callback has refused."""
        error = sys.exception()
        cause = error.__context__ if error else None
        self._refuse(cause if isinstance(cause, RequestError) else BadRequest(msg))

    def is_busy(self) -> bool:
        """Whether a request has no complete response yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def is_idle(self) -> bool:
        """Whether it has had its responses, and nothing of a further request has come."""
        return self._since is None and not self.is_busy() and not self.transport.is_closing()

    def _refuse(self, error: RequestError) -> None:
        """Refuse what is being received, after the responses to the requests before it, and end the connection."""
        if self._refusal is not None or self.transport.is_closing():
            return
        self._refusal = error
        if self.in_body:
            if self.pipeline:
                self.pipeline.popleft()  # the request whose body is broken has not started
            elif not self.is_busy():  # it has its response
                self.transport.close()
                return
            elif self.cycle.response_started:
                self.abort()
                return
            else:
                self._disconnect()
                self.cycle = None  # type: ignore[assignment]  # as uvicorn has it before the first request
        # uvicorn sends the refusal in turn, as the response to one more request.
        self.app = self._answer_refusal
        self.parser = _Parser(self)
        self.parser.feed_data(b"GET / HTTP/1.0\r\n\r\n")

    async def _answer_refusal(self, _: Any, receive: Any, send: Any) -> None:
        """Send the refusal, and drop what the client still sends, so that it sees the response and not a reset."""
        assert self._refusal is not None
        body = orjson.dumps(self._refusal.to_dict())
        fields = {"content-type": "application/json", "content-length": str(len(body)), **self._refusal.headers}
        headers = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        await send({"type": "http.response.start", "status": self._refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        if not self.transport.is_closing():
            self.transport.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._listener.seconds.drain):
                while (await receive())["type"] != "http.disconnect":
                    pass
        self._disconnect()
        self.transport.close()

    def check(self, now: float) -> None:
        """End the connection if its client takes no response, or sends no complete head or body in time."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent != self._unsent:
            self._unsent, self._unsent_since = unsent, now
        elif unsent and now - self._unsent_since > self._listener.seconds.unread:
            self._listener.ended["slow"] += 1
            self.abort()
        elif unsent or self._since is None or self._refusal is not None or self.flow.read_paused:
            return
        elif now - self._since > self._limit():
            if self.in_body or (self.in_head and not self.is_busy()):
                self._listener.ended["slow"] += 1
                what = "body" if self.in_body else "head"
                self._refuse(TimedOut(f"the {what} of the request did not come in time"))
            elif not self.is_busy():  # blank lines
                self.transport.close()

    def _limit(self) -> float:
        """Return the seconds for what is being received."""
        seconds = self._listener.seconds
        if not self.in_body:
            return seconds.head
        return seconds.body if self._body_begun else min(seconds.piece, seconds.body)

    def abort(self) -> None:
        """Break the connection off, so that its client does not take an incomplete response for complete."""
        self._disconnect()
        self.transport.abort()

    def _disconnect(self) -> None:
        """Notify the running request that its client has disconnected, and drop the requests that wait."""
        self.pipeline.clear()
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()


class _Parser(httptools.HttpRequestParser):
    """Ignores a request for another protocol, as HTTP allows. httptools parses nothing behind such a head, neither its
    body nor the next request, so the head is parsed once more without that request."""

    def __init__(self, protocol: HTTPProtocol) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """Parse `data`."""
        try:
            httptools.HttpRequestParser.feed_data(self, data)  # each request passes here: faster than super()
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        else:
            return
        it = self._protocol
        line = b"%b %b HTTP/%b" % (self.get_method(), it.url, self.get_http_version().encode())
        fields = [b"%b: %b" % field for field in it.headers if field[0] != b"upgrade"]
        it.parser = _Parser(it)
        it.parser.feed_data(b"\r\n".join([line, *fields, b"", rest]))


def connection_limit(files: int) -> int:
    """Return the most connections of a process that may open `files` files: a quarter of them, up to 1,024, is kept for
    Redis, the ledger, the spool and Skyvern."""
    return max(16, min(files - min(1024, files // 4), 16_384))


def options(listener: Listening, **others: Any) -> dict[str, Any]:
    """Return the options of uvicorn.Config: this protocol and uvloop, and `others`.

    No response names the server, and no log line is written for each request.
    """
    return {
        "http": listener,
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "timeout_keep_alive": KEEP_ALIVE,
        "server_header": False,
        "access_log": False,
        "log_config": None,
        "log_level": "error",
        **others,
    }
