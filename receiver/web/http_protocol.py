"""uvicorn's HTTP protocol, with its refusals in our JSON shape and limits on requests that have not come in whole."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from receiver.errors import BadRequest, TooLarge
from receiver.ingest.endpoint import ANSWER
from receiver.web.access import ADMIN
from receiver.web.answer_transport import AnswerTransport
from receiver.web.connections import Connections, Unfinished, network_of
from receiver.web.part import ABORT

# Bytes of a request line and headers; llhttp itself has no limit.
MAX_HEAD: Final = 64 << 10
# Header lines of a request that is not whole. Each takes thirty times its bytes where it is short.
MAX_HEADERS: Final = 200
# Seconds between two looks at what has not come in whole.
SWEEP_EVERY: Final = 0.5
# Requests that may have come on a connection before the answer to the first of them. Each takes kilobytes, and a single
# read may hold 14,000. Skyvern, and what stands in front of us, send one at a time.
MAX_PIPELINED: Final = 32
# Seconds for which an answer is still due to a client that has closed its own side of the connection. It may want the
# answer, or be gone altogether: TCP does not tell. A GET may wait on purpose, and ends sooner.
HALF_CLOSED: Final = 10.0
HALF_CLOSED_GET: Final = 1.0
_RETRY_AFTER: Final = "retry-after: 2\r\n"


class HTTPProtocol(HttpToolsProtocol):
    """One connection. Its methods are uvicorn's callbacks, with the limits applied."""

    _head_bytes = 0
    _in_head = True  # a new connection is silent at first
    _in_body = False
    _running: Any = None
    _half_closed: asyncio.TimerHandle | None = None
    # The refusal of what came behind requests that are whole: it is told after their answers.
    _refusal: tuple[str, str, str] | None = None
    # Whether the last answer was given, and what still comes is only read.
    lingers = False
    _is_http = True  # what then comes
    _default_headers: object = None
    _default_lines = b""

    def __init__(
        self,
        *arguments: Any,
        connections: Connections,
        peers: set[HTTPProtocol],
        extensions: Mapping[str, Any],
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        self._all = connections
        self._peers = peers
        self._extensions = {ABORT: self.abort, ANSWER: self.answer, **extensions}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and start the time limit of the first head."""
        super().connection_made(transport)
        self._peers.add(self)
        self._request = Unfinished(self, network_of(self.client[0]) if self.client else "")
        self._answer_transport = AnswerTransport(self)
        if not self._all.opened(self._request, time.monotonic()):
            self.refuse("503 Service Unavailable", "unavailable", "too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._peers.discard(self)
        self._all.gone(self._request)
        if self._half_closed is not None:
            self._half_closed.cancel()
        self._disconnect()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep our side open while an answer is due for all that came; else close the connection."""
        if self.lingers or not self.answering() or self._in_head or self._in_body:
            return False
        if self._refusal is None:
            self.cycle.keep_alive = False
        seconds = HALF_CLOSED_GET if self.cycle.scope["method"] in ("GET", "HEAD") else HALF_CLOSED
        self._half_closed = self.loop.call_later(seconds, self.close)
        return True

    def pause_writing(self) -> None:
        """Let the application wait: the client has taken nothing for a while."""
        self._all.unread(self, time.monotonic())
        super().pause_writing()

    def resume_writing(self) -> None:
        """Let the application go on."""
        if not self.transport.is_closing():  # else all that is left must be taken as well
            self._all.read(self)
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Go on to the next request, or wait for one. Unlike uvicorn's, it makes no timer for each."""
        self._answer_transport.flush()  # an answer may have no body
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        if self.lingers:
            return
        if self.transport.is_closing():
            self._watch_closing()
        elif self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self.refuse(*self._refusal, lingers=self._half_closed is None)
        elif not self._in_head:
            self._all.idle(self, time.monotonic())

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle  # of pipelined requests not the newest, which is `self.cycle`
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        """Begin a head. Raises TooLarge, which ends the connection, where too many requests wait for their turn."""
        self._in_head = True
        if len(self.pipeline) >= MAX_PIPELINED:
            raise TooLarge("too many requests at once")
        super().on_message_begin()
        self.scope["extensions"] = self._extensions

    def data_received(self, data: bytes) -> None:
        """Parse `data`, or answer 431 when the head is over MAX_HEAD or MAX_HEADERS."""
        if self.lingers:
            self._linger(data)
            return
        if self._refusal is not None:  # nobody knows where the next request would begin
            self.flow.pause_reading()
            return
        self._all.busy(self)
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD + len(data):
            self._refuse_head("the head of the request is too large")
            return
        super().data_received(data)
        if self._in_head or self._in_body:
            if self.headers and len(self.headers) > MAX_HEADERS:
                self._refuse_head("the request has too many headers")
                return
            if not self.lingers:
                self._all.progressed(self._request, len(data), self._in_body, time.monotonic())
        else:
            self._all.finished(self._request)
            if self.answered() and not self.lingers:  # before all of it had come, or only blank lines came after it
                self._all.idle(self, time.monotonic())

    def on_headers_complete(self) -> None:
        """End the head: its limits, too."""
        self._head_bytes = 0
        self.scope["headers"] = self.headers.copy()  # the parser gives fields behind a chunked body as headers, too
        super().on_headers_complete()  # or raise, for a target that is none: then it is the head that is broken
        self._in_head, self._in_body = False, True
        self.cycle.transport = self._answer_transport  # type: ignore[assignment]
        self.cycle.body = b""  # type: ignore[assignment]  # a body that comes in one piece is not copied

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body, which counts for no head."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 in our JSON shape: what came is no HTTP."""
        self._refuse_in_turn("400 Bad Request", BadRequest.code, msg)

    def _refuse_head(self, message: str) -> None:
        self._refuse_in_turn("431 Request Header Fields Too Large", TooLarge.code, message)

    def _refuse_in_turn(self, status: str, code: str, message: str) -> None:
        """Refuse what comes in now, once the requests before it that are whole are answered."""
        if not self._waits_for_others():
            self.refuse(status, code, message, lingers=True)
            return
        if self._in_body:  # of the newest, which waits for its turn
            self.pipeline.popleft()
        self._refusal, self._in_head, self._in_body = (status, code, message), False, False
        self._all.finished(self._request)

    def _waits_for_others(self) -> bool:
        """Whether what comes in now is behind a request that is being answered, but not behind too many."""
        before = self._running
        if before is None or before.response_complete or len(self.pipeline) >= MAX_PIPELINED:
            return False
        return not self._in_body or before is not self.cycle

    # What the limits need to know of a connection.

    def reading(self) -> bool:
        """Return whether we read what comes: while the application is slow, we do not."""
        return not self.flow.read_paused

    def answering(self) -> bool:
        """Return whether an answer is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def answered(self) -> bool:
        """Return whether the newest request is answered, though not all of it has come."""
        return self.cycle is not None and self.cycle.response_complete

    def unsent(self) -> int:
        """Return the bytes of answers that the client has not taken yet, here and in the kernel."""
        waiting: int = self.transport.get_write_buffer_size()
        with suppress(OSError, ValueError):  # not every system tells it of a socket, nor of one that is closed
            there = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
            waiting += struct.unpack("i", there)[0]
        return waiting

    def refuse(self, status: str, code: str, message: str, *, lingers: bool = False) -> None:
        """Answer with an error, unless an answer has begun, and close the connection. `lingers`: its client is sending,
        so read on for a while, or it would see a reset instead of the answer."""
        cycle = self.cycle
        # What is answered already may be of the request before; that of a pipelined one would come too early.
        if cycle is None or cycle.response_complete or not (cycle.response_started or self._in_head):
            body = b'{"error":{"code":"%b","message":"%b"}}' % (code.encode(), message.encode())
            head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n"
            head += _RETRY_AFTER if status.startswith("503") else ""
            head += f"content-length: {len(body)}\r\n"
            self.transport.write(b"%b%b\r\n%b" % (head.encode(), self.default_lines(), body))
        if lingers and not self.transport.is_closing():
            self._is_http = False
            self._disconnect()
            self._begin_to_linger()
        else:
            self.close()

    def default_lines(self) -> bytes:
        """Return the header lines of each answer: its date."""
        headers = self.server_state.default_headers
        if headers is not self._default_headers:
            self._default_headers = headers
            self._default_lines = b"".join([b"%b: %b\r\n" % each for each in headers])
        return self._default_lines

    def answer(self, lines: bytes, body: bytes) -> bool:
        """Write a whole answer to the request whose application runs, if `answer_whole` can."""
        return self.answer_whole(self._running, lines, body)

    def answer_whole(self, cycle: Any, lines: bytes, body: bytes) -> bool:
        """Write a whole answer to the request `cycle`. False, and nothing is written, where there is more to it: the
        client takes nothing now, or is gone, or the connection must be closed afterwards."""
        if cycle.response_started or cycle.disconnected or not cycle.keep_alive or self.flow.write_paused:
            return False
        cycle.response_started = cycle.response_complete = True
        self.transport.write(b"%b%b\r\n%b" % (lines, self.default_lines(), body))
        self.on_response_complete()
        return True

    def close_after_answer(self) -> None:
        """Close the connection, once what was written is sent; what is left of a body is read first."""
        if self._in_body and not self.transport.is_closing():
            self._begin_to_linger()
        else:
            self.transport.close()

    def _begin_to_linger(self) -> None:
        self._answer_transport.flush()
        self.lingers = True
        self.pipeline.clear()
        self.transport.write_eof()
        self._all.lingers(self._request, 0, self._is_http, time.monotonic())
        self.flow.resume_reading()

    def _linger(self, data: bytes) -> None:
        """Read and forget what comes after the last answer, until it is all there, or too much."""
        if self._is_http:
            with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
                self.parser.feed_data(data)
        more = self._all.lingers(self._request, len(data), self._is_http, time.monotonic())
        if not more or (self._is_http and not self._in_body):
            self.close()

    def close(self) -> None:
        """Close the connection, once what was written is sent."""
        self._disconnect()  # or the application would write as well
        self._answer_transport.flush()
        self.transport.close()
        self._watch_closing()

    def abort(self) -> None:
        """Break the connection off: its client must not take the answer for whole."""
        self._disconnect()
        self.transport.abort()

    def _disconnect(self) -> None:
        """Tell the request that is being answered, and drop those that wait for their turn."""
        self.pipeline.clear()
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _watch_closing(self) -> None:
        """Have the connection broken off if it can't close, since its client does not take what was written."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._all.unread(self, time.monotonic())


class DatedState(ServerState):
    """What the connections of a server share. The date of answers is made when one is sent, so nothing has to tick."""

    _second = 0
    _lines: list[tuple[bytes, bytes]] = []  # noqa: RUF012 - replaced, and never changed

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of each answer."""
        now = int(time.time())
        if now != self._second:
            self._second, self._lines = now, [(b"date", formatdate(now, usegmt=True).encode())]
        return self._lines

    @default_headers.setter
    def default_headers(self, _: object) -> None: ...


class Protocols:
    """Makes the connections of one listener, and ends what makes no progress while there are any.

    `extensions`: what each request's scope says of the listener. `protocol`: makes one connection.
    """

    def __init__(
        self,
        connections: Connections,
        extensions: Mapping[str, Any],
        protocol: Callable[..., HTTPProtocol] = HTTPProtocol,
    ) -> None:
        self._protocol = protocol
        self._connections = connections
        self._extensions = extensions
        self._timer: asyncio.TimerHandle | None = None
        self._peers: set[HTTPProtocol] = set()
        connections.count = lambda: len(self._peers)

    def __call__(self, **named: Any) -> HTTPProtocol:
        """Return the protocol of a new connection."""
        protocol = self._protocol(
            connections=self._connections, peers=self._peers, extensions=self._extensions, **named
        )
        if self._timer is None:
            self._sweep_later(protocol.loop)
        return protocol

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = loop.call_later(SWEEP_EVERY, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._peers:
            self._sweep_later(loop)  # first: whatever one sweep meets, there is a next
        self._connections.sweep(time.monotonic())


def admin_protocols(connections: Connections) -> Protocols:
    """Return what makes the connections of the admin port."""
    return Protocols(connections, {ADMIN: True})


def options(
    connections: Connections, protocol: Callable[..., HTTPProtocol] = HTTPProtocol, **others: Any
) -> dict[str, Any]:
    """Return the options of uvicorn.Config: this protocol and uvloop, `others` beside or over them.

    `connections`: the limits, and what is counted. Each answer has its date. No headers say which server this is, and
    no log lines that a stranger can make at will (one a request) are written.
    """
    protocols = Protocols(connections, {}, protocol)
    fixed: dict[str, Any] = {"log_level": "error"}
    fixed |= {
        "http": protocols,
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "proxy_headers": False,  # the application sees to them, for other requests than webhooks
    }
    return {**fixed, "server_header": False, "log_config": None, "interface": "asgi3", **others}
