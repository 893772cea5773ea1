"""A scripted HTTP server on loopback for JSON APIs: it gives the next reply of its script, and records every call.

scripted_server   answers 200 without a script: scripted_server.script = [Reply(status=503), Reply(hang_up=True)]
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.waiting import eventually


@dataclass(frozen=True)
class Reply:
    """`hang_up`: close the connection instead. `delay`: seconds before; `drip`: seconds before each byte of it.

    `until`: the answer waits for this event, for at most a minute.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False
    delay: float = 0.0
    until: threading.Event | None = None
    drip: float = 0.0


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class ScriptedServer:
    """`calls`: every request so far. `script`: replies to the next ones; when it is used up, `default`."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.script: list[Reply] = []
        self.default = Reply()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                owner.calls.append(Call(self.command, self.path, headers, body))
                reply = owner.script.pop(0) if owner.script else owner.default
                time.sleep(reply.delay)
                if reply.until:
                    reply.until.wait(60)
                if reply.hang_up:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                for start in range(0, len(reply.body), 1 if reply.drip else len(reply.body)):
                    time.sleep(reply.drip)
                    self.wfile.write(reply.body[start : start + 1] if reply.drip else reply.body)
                    self.wfile.flush()

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def wait_for_calls(self, count: int) -> list[Call]:
        """The calls as soon as there are `count`."""
        eventually(lambda: len(self.calls) >= count, every=0.005, what=lambda: f"{len(self.calls)} of {count}")
        return list(self.calls)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def scripted_server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def other_server() -> Iterator[ScriptedServer]:
    """A second one, elsewhere."""
    server = ScriptedServer()
    yield server
    server.close()
