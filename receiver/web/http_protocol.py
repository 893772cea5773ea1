"""uvicorn's HTTP protocol, with its refusals in our JSON shape and limits on a request's head."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from receiver.errors import BadRequest, TooLarge

# Bytes of a request line and headers; llhttp itself has no limit.
MAX_HEAD: Final = 64 << 10

# Seconds that a request's head may take, and a new connection may be silent. uvicorn itself has no limit.
HEAD_SECONDS: Final = 10.0


class Protocol(HttpToolsProtocol):
    """One connection. Its methods are uvicorn's callbacks, with the limits applied."""

    _head_bytes = 0
    _head_started = 0.0  # time.monotonic(); 0.0 while no head is being received
    _timer: asyncio.TimerHandle | None = None  # one for a connection's life: a timer for each request costs more

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first head."""
        super().connection_made(transport)
        self._head_started = time.monotonic()
        self._check_later(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _check_later(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._check_head)

    def _check_head(self) -> None:
        """Refuse a head that takes too long, unless an answer is under way: that comes first."""
        answering = self.cycle is not None and not self.cycle.response_complete
        left = self._head_started + HEAD_SECONDS - time.monotonic() if self._head_started else HEAD_SECONDS
        if left <= 0 and not answering:
            self._refuse("408 Request Timeout", "timed_out", "the head of the request did not come in time")
        else:
            self._check_later(max(left, HEAD_SECONDS / 10))

    def on_message_begin(self) -> None:
        """Start the time limit of a head."""
        self._head_started = time.monotonic()
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        """Parse `data`, or answer 431 when the head is over MAX_HEAD."""
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD + len(data):
            self._refuse("431 Request Header Fields Too Large", TooLarge.code, "the head of the request is too large")
            return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """End both limits: the head is here."""
        self._head_bytes = 0
        self._head_started = 0.0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body, which counts for no head."""
        self._head_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answer 400 in our JSON shape: what came is no HTTP."""
        self._refuse("400 Bad Request", BadRequest.code, msg)

    def _refuse(self, status: str, code: str, message: str) -> None:
        body = b'{"error":{"code":"%b","message":"%b"}}' % (code.encode(), message.encode())
        head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n"
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head.encode(), len(body), body))
        self.transport.close()


def options(**others: Any) -> dict[str, Any]:
    """Return the options of uvicorn.Config: this protocol and uvloop, `others` beside or over them.

    No headers say which server this is, and no log lines that a stranger can make at will (one a request) are written.
    """
    fixed: dict[str, Any] = {"log_level": "error"}
    fixed |= {"http": Protocol, "loop": "uvloop", "ws": "none", "lifespan": "on", "access_log": False}
    return {**fixed, "server_header": False, "date_header": False, "log_config": None, "interface": "asgi3", **others}
