"""Connections to HTTP/1.1 servers: one request after another, each response read as it comes.

A connection is written and read by a thread that waits for it, or piece by piece by one that waits for many.

Responses are parsed by httptools, in C, for what a sink's process may do in a second is bounded by its CPU. Its parser
is as strict here as aiohttp's is for responses, but for a header that is folded over lines: that is an error.
This file knows no URL and no address policy: guarded_client.py says where a connection goes, and until when.

    httpcore2.LocalProtocolError    what is to be sent is no HTTP
    httpcore2.RemoteProtocolError   what was received is no HTTP, or no whole response
    httpcore2.NetworkError, httpcore2.TimeoutException    as the stream raises them
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import httpcore2
import httptools

from handlers.support.deadline import Deadline

# Bytes of one read of a body.
READ_SIZE = 256 * 1024
# Bytes of the first read of a response, of which most are small.
_FIRST_READ = 16 * 1024
# Bytes of a write, for each of which the deadline is looked at again.
_WRITE_SIZE = 256 * 1024
# Bytes of a response that are no body (head, trailers, extensions of chunks) which are read in a row.
_MAX_HEAD = 100 * 1024
# Seconds that an idle connection is kept, less than servers do, and how many are.
_KEEP_IDLE = 5.0
MAX_IDLE = 256

# What a socket raises that does not wait, where one that waits would.
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUES = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(rb"[\x21-\x7e]+")


def request_line(method: str, target: bytes) -> bytes:
    """Return the first line of a request. Raises httpcore2.LocalProtocolError for what would not be one."""
    if not _TARGET.fullmatch(target):
        raise httpcore2.LocalProtocolError("the target has characters that HTTP does not allow")
    return f"{method} {target.decode('latin-1')} HTTP/1.1\r\n".encode("latin-1")


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Return the lines of headers. Raises httpcore2.LocalProtocolError for what would not be one line each."""
    values = "".join(headers.values())  # tested as one text: that is a fifth of a look at each
    if not (all(map(_is_name, headers)) and ((values.isascii() and values.isprintable()) or _VALUES.fullmatch(values))):
        raise httpcore2.LocalProtocolError("a header has characters that HTTP does not allow")
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()]).encode("latin-1")


@lru_cache(1024)
def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


class _Incoming:
    """The response that is being received, as httptools tells of it."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_chunked_length=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self.begin()

    def begin(self) -> None:
        """Expect the response to the next request."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []  # of the body
        self.began = False  # whether anything was received
        self.has_head = False
        self.complete = False
        # Whether the connection can be used again once it is complete.
        self.keeps_open = False
        self._without_body = 0

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        self.began = True
        before = len(self.pieces)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.complete:
                raise httpcore2.RemoteProtocolError("not a response") from None
            self.keeps_open = False  # what is wrong follows it
        self._without_body = 0 if len(self.pieces) > before else self._without_body + len(data)
        if self._without_body > _MAX_HEAD:
            raise httpcore2.RemoteProtocolError("a response whose head has no end")

    def feed_end(self) -> None:
        """Take the end of the connection, which ends a body that has no length."""
        if self.complete:
            return
        if not self.has_head or "content-length" in self.headers or "transfer-encoding" in self.headers:
            raise httpcore2.RemoteProtocolError("a response that breaks off")
        self.complete = True

    def has_received(self, most: int) -> bool:
        """Whether it is whole, or has `most` bytes of body, as far as they were not handed on."""
        return self.complete or (self.has_head and sum(map(len, self.pieces)) >= most)

    def on_message_begin(self) -> None:
        if self.complete:
            self.keeps_open = False  # nobody has asked for another one

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it is a trailer
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1").rstrip(" \t")

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # the response proper follows
            self.headers.clear()
            return
        self.status = status
        self.has_head = True
        both = "content-length" in self.headers and "transfer-encoding" in self.headers
        self.keeps_open = self._parser.should_keep_alive() and not both

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self.pieces.append(data)

    def on_message_complete(self) -> None:
        self.complete = self.has_head
        self.keeps_open = self.keeps_open and self._parser.should_keep_alive()  # trailers may say otherwise


class HttpConnection:
    """One connection, used by one call at a time. `timeout`: seconds that one wait for the network may take."""

    def __init__(self, stream: httpcore2.NetworkStream, timeout: float) -> None:
        self._stream = stream
        self._socket: socket.socket = stream.get_extra_info("socket")
        self._timeout = timeout
        self._incoming = _Incoming()
        self._deadline = Deadline(0.0)
        self._broken = False
        self._unwritten: list[bytes | memoryview] = []
        # What whoever waits for its responses keeps with it.
        self.attachment: Any = None

    def send(self, head: bytes, content: bytes, deadline: Deadline) -> None:
        """Send a request and receive the head of its response. All of it, the body too, must end by `deadline`."""
        self.begin(head, content, deadline)
        self.write()
        self.read_head()

    def begin(self, head: bytes, content: bytes, deadline: Deadline) -> None:
        """Begin a request, of which nothing is written yet. All of it must end by `deadline`, the response too."""
        self._deadline = deadline
        self._incoming.begin()
        self._unwritten = [head + content] if len(content) <= _WRITE_SIZE else [head, content]

    def write(self) -> None:
        """Write what is left of the request."""
        try:
            while self._unwritten:
                part = self._unwritten[0]
                self._stream.write(bytes(part[:_WRITE_SIZE]), self._wait())
                self._wrote(len(part[:_WRITE_SIZE]))
        except httpcore2.WriteError:
            self._hung_up()

    def write_now(self) -> bool:
        """Write what can be written without waiting. Returns whether that is all of the request."""
        sock = self._unblocked()
        try:
            while self._unwritten:
                self._wrote(sock.send(self._unwritten[0]))
        except _WOULD_BLOCK:
            return False
        except OSError:
            self._hung_up()
        return True

    def read_head(self) -> None:
        """Receive the head of the response."""
        while not self._incoming.has_head:
            self._receive(_FIRST_READ)

    def read(self, most: int) -> None:
        """Receive the response until it is whole, or has `most` bytes of body."""
        while not self._incoming.has_received(most):
            self._receive(READ_SIZE)

    def read_now(self, most: int) -> bool:
        """Receive what is there without waiting. Returns whether the response is whole, or has `most` bytes of body."""
        sock = self._unblocked()
        try:
            # Until nothing is there: what TLS has decrypted already makes no socket readable.
            while not self._incoming.has_received(most):
                self._received(sock.recv(_FIRST_READ))
        except _WOULD_BLOCK:
            return False
        except OSError:
            raise httpcore2.ReadError("the connection broke") from None
        return True

    def fileno(self) -> int:
        """Return the socket, to wait until something is there."""
        return self._socket.fileno()

    @property
    def unanswered(self) -> bool:
        """Whether nothing was received since the request was sent."""
        return not self._incoming.began

    @property
    def status(self) -> int:
        """The status of the response."""
        return self._incoming.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the response; their names are lower-case."""
        return self._incoming.headers

    @property
    def body(self) -> bytes:
        """What was received of the body, not decompressed."""
        return b"".join(self._incoming.pieces)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body of the response as it arrives, not decompressed."""
        incoming = self._incoming
        while True:
            if incoming.pieces:  # as one, for a server may send a byte a chunk
                received = b"".join(incoming.pieces)
                incoming.pieces.clear()
                yield received
            if incoming.complete:
                return
            self._receive(READ_SIZE)

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: the response was received whole, and neither side has hung up."""
        return self._incoming.complete and self._incoming.keeps_open and not self._broken

    @property
    def stale(self) -> bool:
        """Whether the server has hung up, or sent what nobody asked for, since the last response."""
        if isinstance(self._socket, ssl.SSLSocket):
            return bool(self._stream.get_extra_info("is_readable"))
        try:
            self._unblocked().recv(1, socket.MSG_PEEK)  # half of what poll() costs
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def _receive(self, size: int) -> None:
        self._received(self._stream.read(size, self._wait()))

    def _received(self, data: bytes) -> None:
        if data:
            self._incoming.feed(data)
        else:
            self._broken = True
            self._incoming.feed_end()

    def _wrote(self, size: int) -> None:
        if size == len(self._unwritten[0]):
            del self._unwritten[0]
        else:
            self._unwritten[0] = memoryview(self._unwritten[0])[size:]

    def _hung_up(self) -> None:
        """Note that the server takes nothing more. It may have answered before."""
        self._broken = True
        self._unwritten.clear()

    def _unblocked(self) -> socket.socket:
        if self._socket.gettimeout() != 0.0:
            self._socket.setblocking(False)
        return self._socket

    def _wait(self) -> float:
        return min(self._timeout, self._deadline.remaining())


class IdleConnections:
    """Connections that wait for their next request, by origin: for five seconds, the latest first. Threads share it.

    `most`: how many are kept.
    """

    def __init__(self, most: int = MAX_IDLE) -> None:
        self._most = most
        self._lock = threading.Lock()
        # Since when, to where, and the connection; the oldest first.
        self._idle: deque[tuple[float, Hashable, HttpConnection]] = deque()
        self._closed = False

    def take(self, origin: Hashable) -> HttpConnection | None:
        """Return a connection to `origin` that can be used; None when there is none."""
        while (found := self._pop(origin)) is not None and found.stale:
            found.close()
        return found

    def give_back(self, origin: Hashable, connection: HttpConnection) -> None:
        """Keep a connection for the next request, or close it if there can't be one."""
        now = time.monotonic()
        over = [] if connection.reusable else [connection]
        with self._lock:
            if self._closed:
                over = [connection]
            elif not over:
                self._idle.append((now, origin, connection))
            while self._idle and (len(self._idle) > self._most or self._idle[0][0] < now - _KEEP_IDLE):
                over.append(self._idle.popleft()[2])
        for each in over:
            each.close()

    def close(self) -> None:
        """Close them, and from now on what is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
        for _, _, connection in idle:
            connection.close()

    def _pop(self, origin: Hashable) -> HttpConnection | None:
        oldest = time.monotonic() - _KEEP_IDLE
        with self._lock:
            for place in range(len(self._idle) - 1, -1, -1):
                since, its_origin, connection = self._idle[place]
                if since < oldest:
                    return None  # `give_back` closes it, and all that are older
                if its_origin == origin:
                    del self._idle[place]
                    return connection
        return None
