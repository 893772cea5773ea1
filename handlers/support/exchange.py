"""One HTTP request and its response, step by step: by a thread that waits for them, or by one that waits for many.

    exchange.send_now()   waits for nothing: False when `send` has to do the rest
    exchange.send()       may wait: connects, and writes all of the request
    exchange.read()       may wait: the response
    exchange.read_now()   waits for nothing: the response, once it is whole
    exchange.end()        in any case: the connection is kept for the next request, or closed

It knows no address policy: guarded_client.py makes exchanges, and says how a connection is opened.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

import httpcore2
import httpx2

from handlers.contract import Refused, Unavailable
from handlers.support.deadline import Deadline
from handlers.support.http_connection import HttpConnection, IdleConnections, header_lines, request_line
from handlers.support.url import PORTS


class RequestHead:
    """What many requests have in common, made once: method, URL and headers. `url`: as `parse_url` returns it.

    Raises Refused for what HTTP does not allow.
    """

    def __init__(self, method: str, url: httpx2.URL, headers: Mapping[str, str]) -> None:
        self.method = method
        self.url = url
        self.host = url.host
        self.origin = origin_of(url)
        common = {"host": url.netloc.decode(), "accept": "*/*", "accept-encoding": "identity", "user-agent": "runhook"}
        common.update((name.lower(), value) for name, value in headers.items())
        with translated_errors(self.host):
            self._lines = request_line(method, url.raw_path) + header_lines(common)

    def completed(self, headers: Mapping[str, str], length: int | None) -> bytes:
        """Return the head of one request, with `headers` of its own and the length of its body, if it has one."""
        own = headers if length is None else {**headers, "content-length": str(length)}
        with translated_errors(self.host):
            return b"%b%b\r\n" % (self._lines, header_lines(own))


class HttpRequest(NamedTuple):
    """What is to be sent, and until when. `headers`: others than those of its `head`. `content`: None for a request
    without a body. `max_answer`: bytes of the response's body that are read at the most."""

    head: RequestHead
    headers: Mapping[str, str]
    content: bytes | None
    deadline: Deadline
    max_answer: int = 64 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """A response that was read whole. Header names are lower-case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Exchange:
    """One request and its response, over a connection of `idle` or a new one. Used by one thread at a time.

    `connect`: opens a connection to a URL's server by a deadline. `timeout`: seconds of one wait. Its methods raise
    Refused and Unavailable. A request other than GET is sent once; a GET may go out again over a new connection when
    the server has hung up on an old one and answered nothing.
    """

    def __init__(
        self,
        request: HttpRequest,
        idle: IdleConnections,
        connect: Callable[[httpx2.URL, Deadline], httpcore2.NetworkStream],
        timeout: float,
    ) -> None:
        common, content = request.head, request.content
        self._common, self._max_answer = common, request.max_answer
        self.deadline = request.deadline
        self._head = common.completed(request.headers, None if content is None else len(content))
        self._content = content or b""
        self._idle = idle
        self._connect = connect
        self._timeout = timeout
        self._connection: HttpConnection | None = None
        self._kept = False  # whether the connection has had other requests
        self.deadline.remaining()

    @property
    def connection(self) -> HttpConnection:
        """The connection, once something was sent."""
        assert self._connection is not None
        return self._connection

    @property
    def host(self) -> str:
        """The server's name, for messages."""
        return self._common.host

    def fileno(self) -> int:
        """Return the socket, which can be read when something has arrived. Only once the request was sent."""
        return self.connection.fileno()

    def send_now(self) -> bool:
        """Send over an idle connection what can be sent without waiting. Returns whether that is the whole request."""
        if self._connection is None and not self._take():
            return False
        with translated_errors(self._common.host):
            return self.connection.write_now()

    def send(self) -> None:
        """Send what is left of the request, over a new connection if there is no idle one."""
        with translated_errors(self._common.host):
            if self._connection is None and not self._take():
                self._open()
            self.connection.write()

    def read_head(self) -> None:
        """Wait for the head of the response."""
        with translated_errors(self._common.host):
            try:
                self.connection.read_head()
            except (httpcore2.NetworkError, httpcore2.RemoteProtocolError):
                # Of anything but a GET the server may have done what it was asked for: whether that is sent again is
                # for the ledger, which knows each attempt.
                if self._common.method != "GET" or not self._kept or not self.connection.unanswered:
                    raise
                self.connection.close()
                self._open()
                self.connection.write()
                self.connection.read_head()

    def read(self) -> Response:
        """Wait for the response."""
        self.read_head()
        with translated_errors(self._common.host):
            self.connection.read(self._max_answer)
        return self._response()

    def read_now(self) -> Response | None:
        """Return the response if it has arrived whole, or as much of its body as is read; else None."""
        with translated_errors(self._common.host):
            return self._response() if self.connection.read_now(self._max_answer) else None

    def end(self) -> None:
        """Keep the connection for another request, or close it if there can be none. May be called at any time."""
        if self._connection is not None:
            self._idle.give_back(self._common.origin, self._connection)
            self._connection = None

    def _response(self) -> Response:
        return Response(self.connection.status, self.connection.headers, self.connection.body[: self._max_answer])

    def _take(self) -> bool:
        self._connection = self._idle.take(self._common.origin)
        self._kept = self._connection is not None
        if self._connection is not None:
            self._begin(self._connection)
        return self._kept

    def _open(self) -> None:
        self._connection = HttpConnection(self._connect(self._common.url, self.deadline), self._timeout)
        self._begin(self._connection)

    def _begin(self, connection: HttpConnection) -> None:
        connection.begin(self._head, self._content, self.deadline)
        if self._common.method != "GET":
            self._content = b""  # it goes out once, and then only the response is waited for


def origin_of(url: httpx2.URL) -> tuple[str, str, int]:
    """Return the scheme, host and port that a URL's server has."""
    return url.scheme, url.host, url.port or PORTS[url.scheme]


class translated_errors:  # noqa: N801 - a context manager, which is made for each step of a request
    """Raise Refused or Unavailable for the errors of connections inside."""

    __slots__ = ("_host",)

    def __init__(self, host: str) -> None:
        self._host = host

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _traceback: TracebackType | None) -> None:
        if error is not None and (translated := _translated(self._host, error)):
            raise translated from None


def _translated(host: str, error: BaseException) -> Refused | Unavailable | None:
    if isinstance(error, httpcore2.TimeoutException):
        return Unavailable(f"{host} did not answer in time")
    if isinstance(error, httpcore2.ConnectError):
        return Unavailable(f"{host}: {_why_not_reached(error)}")
    if isinstance(error, httpcore2.LocalProtocolError):
        return Refused(f"{host}: a header or address that HTTP does not allow")
    if isinstance(error, (httpcore2.NetworkError, httpcore2.ProtocolError, OSError)):
        return Unavailable(f"{host}: the connection broke")
    return None


def _why_not_reached(error: BaseException) -> str:
    if "CERTIFICATE" in str(error).upper():
        return "its certificate does not hold"
    if getattr(error.__cause__, "errno", None) in (errno.EMFILE, errno.ENFILE):
        return "no more files may be open here: allow more (ulimit -n, or LimitNOFILE of systemd), or lower concurrency"
    return "it can't be reached"
