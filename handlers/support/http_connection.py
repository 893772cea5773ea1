"""HTTP/1.1 connections: one request at a time, with streamed responses. h11 writes requests and parses responses;
httpcore2 owns sockets and TLS. guarded_client.py chooses addresses and deadlines.

A connection is reused only if its last response is complete and nothing follows it: unrequested bytes would be read as
the response to the next request.

    h11.LocalProtocolError     the request is not valid HTTP
    h11.RemoteProtocolError    the response is not valid HTTP, or it is incomplete
    httpcore2.NetworkError, httpcore2.TimeoutException    raised by the stream
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final

import h11
import httpcore2

from handlers.support.deadline import Deadline

# Bytes per read: of a head, usually small, and of a body.
_HEAD_READ: Final = 16 * 1024
_BODY_READ: Final = 256 * 1024
# Bytes per write; the deadline is checked before each.
_WRITE: Final = 256 * 1024
# Maximum bytes of a head, a chunk's extensions or the trailers; maximum responses with status 1xx before the final one.
_MAX_HEAD: Final = 100 * 1024
_MAX_INFORMATIONAL: Final = 16
# Seconds that an idle connection is kept (servers keep it longer), and the maximum number of idle connections.
_KEEP_IDLE: Final = 5.0
_MAX_IDLE: Final = 256


class HttpConnection:
    """One connection, used by one request at a time. `timeout`: maximum seconds of one wait for the network."""

    def __init__(self, stream: httpcore2.NetworkStream, timeout: float) -> None:
        self._stream = stream
        self._timeout = timeout
        self._http: Any = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self._deadline = Deadline(0.0)
        self._broken = False
        self.status = 0  # of the last response
        self.headers: Mapping[str, str] = {}  # of the last response; names are lower-case
        self.unanswered = True  # whether nothing has arrived since the request was sent

    def exchange(self, request: h11.Request, content: bytes, deadline: Deadline) -> None:
        """Send a request and receive the head of the response. All, including its body, must end by `deadline`."""
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        self._deadline, self.unanswered, self.status = deadline, True, 0
        data = memoryview(self._http.send(request) + (self._http.send(h11.Data(content)) if content else b""))
        self._http.send(h11.EndOfMessage())
        try:
            for start in range(0, len(data), _WRITE):
                self._stream.write(bytes(data[start : start + _WRITE]), self._wait())
        except httpcore2.WriteError:
            self._broken = True  # the server may have responded before it closed
        for _ in range(_MAX_INFORMATIONAL):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._receive(_HEAD_READ)
            if isinstance(event, h11.Response):
                self.status = event.status_code
                self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                # With two kinds of framing, the server's end of the body may differ from h11's.
                self._broken |= "content-length" in self.headers and "transfer-encoding" in self.headers
                return
            if not isinstance(event, h11.InformationalResponse):
                break
        raise h11.RemoteProtocolError("no final response")

    def chunks(self) -> Iterator[bytes]:
        """Yield the response's body as it arrives, not decompressed. One chunk per read."""
        pieces: list[bytes] = []
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Data):
                pieces.append(event.data)
                continue
            if pieces:
                yield b"".join(pieces)
                pieces.clear()
            if event is not h11.NEED_DATA:
                return
            self._receive(_BODY_READ)

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: the response is complete, and nothing follows it."""
        surplus, closed = self._http.trailing_data
        states = (self._http.our_state, self._http.their_state)
        return states == (h11.DONE, h11.DONE) and not surplus and not closed and not self._broken

    @property
    def stale(self) -> bool:
        """Whether the server has closed, or sent unrequested bytes, since the last response."""
        return bool(self._stream.get_extra_info("is_readable"))

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def _receive(self, size: int) -> None:
        data = self._stream.read(size, self._wait())
        self.unanswered = self.unanswered and not data
        self._http.receive_data(data)  # b"" is the end of the connection

    def _wait(self) -> float:
        return min(self._timeout, self._deadline.remaining())


class IdleConnections:
    """Idle connections by origin: kept for five seconds, newest first. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # (idle since, origin, connection), oldest first.
        self._idle: list[tuple[float, Hashable, HttpConnection]] = []
        self._closed = False

    def take(self, origin: Hashable) -> HttpConnection | None:
        """Return a usable connection to `origin`, or None."""
        while True:
            with self._lock:
                places = [place for place, (_, its_origin, _) in enumerate(self._idle) if its_origin == origin]
                if not places:
                    return None
                since, _, connection = self._idle.pop(places[-1])
            if since >= time.monotonic() - _KEEP_IDLE and not connection.stale:
                return connection
            connection.close()

    def give_back(self, origin: Hashable, connection: HttpConnection) -> None:
        """Keep a connection for the next request, or close it if it cannot be used again."""
        now = time.monotonic()
        over = [] if connection.reusable else [connection]
        with self._lock:
            if self._closed:
                over = [connection]
            elif not over:
                self._idle.append((now, origin, connection))
            while self._idle and (len(self._idle) > _MAX_IDLE or self._idle[0][0] < now - _KEEP_IDLE):
                over.append(self._idle.pop(0)[2])
        for each in over:
            each.close()

    def close(self) -> None:
        """Close all connections, also those returned later."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, _, connection in idle:
            connection.close()
