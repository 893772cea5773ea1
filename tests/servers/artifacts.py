"""A fake of the server that has a run's files, with the faults that such servers have.

    with ArtifactServer() as server:
        url = server.add("/a.pdf", b"...")            # served with Content-Length
        url = server.add("/b.pdf", b"...", short=10)  # breaks off 10 bytes early
        server.seen                                   # the requests, in order

It runs in a thread of the test and listens on 127.0.0.1 on a free port.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support.waiting import eventually


@dataclass
class Page:
    """How one path is answered. `gate`: the body's second half waits for it."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    short: int = 0
    chunked: bool = False
    no_length: bool = False
    gate: threading.Event | None = None
    trickle: threading.Event | None = None
    """Sends single bytes without end, until the event is set."""


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner.record(Seen(self.command, self.path, headers, self.rfile.read(length)))
        page = owner.pages.get(self.path) or owner.pages.get(self.path.partition("?")[0]) or Page(status=404)
        self._send(page() if callable(page) else page)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - http.server's names

    def _send(self, page: Page) -> None:
        self.send_response(page.status)
        for name, value in page.headers.items():
            self.send_header(name, value)
        if page.chunked:
            self.send_header("transfer-encoding", "chunked")
        elif not page.no_length and page.trickle is None:
            self.send_header("content-length", str(len(page.body)))
        else:
            self.close_connection = True
        self.end_headers()
        sent = page.body[: len(page.body) - page.short]
        if page.trickle is not None:
            while not page.trickle.wait(0.02):
                self.wfile.write(b".")
        if page.gate is not None:
            self.wfile.write(sent[: len(sent) // 2])
            page.gate.wait(120)
            sent = sent[len(sent) // 2 :]
        if page.chunked:
            sent = b"%x\r\n%s\r\n" % (len(sent), sent) + (b"" if page.short else b"0\r\n\r\n")
        self.wfile.write(sent)
        if page.short:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    owner: ArtifactServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is no error here."""


class ArtifactServer:
    """See the module's docstring."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.pages: dict[str, Page | Callable[[], Page]] = {}
        self.seen: list[Seen] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, path: str, body: bytes = b"", **settings: Any) -> str:
        """Serve `body` at `path`; `settings` are the fields of Page. Returns the URL."""
        self.pages[path] = Page(body, **settings)
        return self.url + path

    def script(self, path: str, *pages: Page) -> str:
        """Answer the first request for `path` with the first page and so on; the last one stays. Returns the URL."""
        left = list(pages)
        self.pages[path] = lambda: left.pop(0) if len(left) > 1 else left[0]
        return self.url + path

    def record(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)

    def wait_for(self, path: str, count: int) -> None:
        """Wait until there were `count` requests for `path`."""
        eventually(lambda: self.paths().count(path) >= count)

    def paths(self) -> list[str]:
        """Return the paths of the requests, without queries."""
        return [seen.path.partition("?")[0] for seen in self.seen]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
