"""uvicorn's HTTP protocol, with its own refusals in our JSON shape and a bound on a request's head."""

from __future__ import annotations

from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 64 << 10
"""Bytes of a request line and headers; llhttp itself knows no bound."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _since_head = 0

    def data_received(self, data: bytes) -> None:
        self._since_head += len(data)
        if self._since_head > MAX_HEAD + len(data):
            self._refuse("431 Request Header Fields Too Large", "too_large", "the head of the request is too large")
            return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._since_head = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._since_head = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        self._refuse("400 Bad Request", "bad_request", msg)

    def _refuse(self, status: str, code: str, message: str) -> None:
        body = b'{"error":{"code":"%b","message":"%b"}}' % (code.encode(), message.encode())
        head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n"
        self.transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head.encode(), len(body), body))
        self.transport.close()


def options(**others: Any) -> dict[str, Any]:
    """How uvicorn is run: this protocol, uvloop, no headers that say who we are, no log lines that a stranger can make
    at will (one for each request, or for each that is no HTTP)."""
    fixed: dict[str, Any] = {"log_level": "error"}
    fixed |= {"http": Protocol, "loop": "uvloop", "ws": "none", "lifespan": "on", "access_log": False}
    return {**fixed, "server_header": False, "date_header": False, "log_config": None, "interface": "asgi3", **others}
