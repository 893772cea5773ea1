"""One HTTP request and its response, step by step: by a thread that waits for them, or by one that waits for many.

    exchange.send_now()   waits for nothing: False when `send` has to do the rest
    exchange.send()       may wait: connects, and writes all of the request
    exchange.read()       may wait: the response
    exchange.read_now()   waits for nothing: the response, once it is whole
    exchange.end()        in any case: the connection is kept for the next request, or closed

It knows no address policy: guarded_client.py makes exchanges, and says how a connection is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpcore2
import httpx2

from handlers.contract import Refused, Unavailable
from handlers.support.deadline import Deadline
from handlers.support.http_connection import HttpConnection, IdleConnections, request_head
from handlers.support.url import PORTS


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What is to be sent, and until when. `url`: as `parse_url` returns it. `content`: None for a request without a
    body. `max_answer`: bytes of the response's body that are read at the most."""

    method: str
    url: httpx2.URL
    headers: Mapping[str, str]
    content: bytes | None
    deadline: Deadline
    max_answer: int = 64 * 1024

    @property
    def origin(self) -> tuple[str, str, int]:
        """Where it goes: scheme, host and port."""
        return origin_of(self.url)


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
        url = request.url
        sent = {"host": url.netloc.decode(), "accept": "*/*", "accept-encoding": "identity", "user-agent": "runhook"}
        if request.content is not None:
            sent["content-length"] = str(len(request.content))
        sent.update((name.lower(), value) for name, value in request.headers.items())
        self._url, self._method, self._max_answer = url, request.method, request.max_answer
        self.deadline = request.deadline
        self._origin = request.origin
        self._content = request.content or b""
        self._idle = idle
        self._connect = connect
        self._timeout = timeout
        self._connection: HttpConnection | None = None
        self._kept = False  # whether the connection has had other requests
        with translated_errors(url.host):
            self._head = request_head(request.method, url.raw_path, sent)
        self.deadline.remaining()

    @property
    def connection(self) -> HttpConnection:
        """The connection, once something was sent."""
        assert self._connection is not None
        return self._connection

    @property
    def host(self) -> str:
        """The server's name, for messages."""
        return self._url.host

    def fileno(self) -> int:
        """Return the socket, which can be read when something has arrived. Only once the request was sent."""
        return self.connection.fileno()

    def send_now(self) -> bool:
        """Send over an idle connection what can be sent without waiting. Returns whether that is the whole request."""
        if self._connection is None and not self._take():
            return False
        with translated_errors(self._url.host):
            return self.connection.write_now()

    def send(self) -> None:
        """Send what is left of the request, over a new connection if there is no idle one."""
        with translated_errors(self._url.host):
            if self._connection is None and not self._take():
                self._open()
            self.connection.write()

    def read_head(self) -> None:
        """Wait for the head of the response."""
        with translated_errors(self._url.host):
            try:
                self.connection.read_head()
            except (httpcore2.NetworkError, httpcore2.RemoteProtocolError):
                # Of anything but a GET the server may have done what it was asked for: whether that is sent again is
                # for the ledger, which knows each attempt.
                if self._method != "GET" or not self._kept or not self.connection.unanswered:
                    raise
                self.connection.close()
                self._open()
                self.connection.write()
                self.connection.read_head()

    def read(self) -> Response:
        """Wait for the response."""
        self.read_head()
        with translated_errors(self._url.host):
            self.connection.read(self._max_answer)
        return self._response()

    def read_now(self) -> Response | None:
        """Return the response if it has arrived whole, or as much of its body as is read; else None."""
        with translated_errors(self._url.host):
            return self._response() if self.connection.read_now(self._max_answer) else None

    def end(self) -> None:
        """Keep the connection for another request, or close it if there can be none. May be called at any time."""
        if self._connection is not None:
            self._idle.give_back(self._origin, self._connection)
            self._connection = None

    def _response(self) -> Response:
        return Response(self.connection.status, self.connection.headers, self.connection.body[: self._max_answer])

    def _take(self) -> bool:
        self._connection = self._idle.take(self._origin)
        self._kept = self._connection is not None
        if self._connection is not None:
            self._begin(self._connection)
        return self._kept

    def _open(self) -> None:
        self._connection = HttpConnection(self._connect(self._url, self.deadline), self._timeout)
        self._begin(self._connection)

    def _begin(self, connection: HttpConnection) -> None:
        connection.begin(self._head, self._content, self.deadline)
        if self._method != "GET":
            self._content = b""  # it goes out once, and then only the response is waited for


def origin_of(url: httpx2.URL) -> tuple[str, str, int]:
    """Return the scheme, host and port that a URL's server has."""
    return url.scheme, url.host, url.port or PORTS[url.scheme]


@contextmanager
def translated_errors(host: str) -> Iterator[None]:
    """Raise Refused or Unavailable for the errors of connections inside."""
    try:
        yield
    except httpcore2.TimeoutException:
        raise Unavailable(f"{host} did not answer in time") from None
    except httpcore2.ConnectError as error:
        kind = "its certificate does not hold" if "CERTIFICATE" in str(error).upper() else "it can't be reached"
        raise Unavailable(f"{host}: {kind}") from None
    except httpcore2.LocalProtocolError:
        raise Refused(f"{host}: a header or address that HTTP does not allow") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError):
        raise Unavailable(f"{host}: the connection broke") from None
