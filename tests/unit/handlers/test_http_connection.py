"""One HTTP/1.1 connection: what is a response, what is none, and when another request may follow."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import h11
import httpcore2
import pytest

from handlers.support import http_connection
from handlers.support.deadline import Deadline
from handlers.support.http_connection import HttpConnection, IdleConnections

HEAD = b"POST /hook?a=1 HTTP/1.1\r\nHost: app.example\r\nContent-Length: 2\r\n\r\n"
REQUEST = h11.Request(method="POST", target=b"/hook?a=1", headers=[("Host", "app.example"), ("Content-Length", "2")])


@contextmanager
def server(talk: Callable[[socket.socket], None], connections: int = 1) -> Iterator[Callable[[], HttpConnection]]:
    """Lend a function that connects to a server that does `talk` with each connection, and then closes it."""
    opened: list[HttpConnection] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(connections):
                with listener.accept()[0] as accepted:
                    talk(accepted)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        def connect() -> HttpConnection:
            stream = httpcore2.SyncBackend().connect_tcp(*listener.getsockname(), timeout=30)
            opened.append(HttpConnection(stream, 30))
            return opened[-1]

        try:
            yield connect
        finally:
            for each in opened:
                each.close()
        thread.join(30)


def answering(*parts: bytes) -> Callable[[socket.socket], None]:
    """Answer one request with these bytes, each part in a packet of its own, and close."""

    def talk(accepted: socket.socket) -> None:
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received(accepted)
        for part in parts:
            accepted.sendall(part)

    return talk


def received(accepted: socket.socket) -> bytes:
    """Read one request: HEAD, and its two bytes."""
    data = b""
    while len(data) < len(HEAD) + 2 and (more := accepted.recv(65536)):
        data += more
    return data


def exchange(connection: HttpConnection) -> tuple[int, bytes]:
    connection.send(REQUEST, b"{}", Deadline(30))
    connection.read_head()
    return connection.status, b"".join(connection.chunks())


LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("answer", "status", "body", "reusable"),
    [
        ([LENGTH], 200, b"ok", True),
        ([bytes([each]) for each in LENGTH], 200, b"ok", True),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b"", True),
        ([b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n"], 304, b"", True),
        ([b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok"], 200, b"ok", True),
        ([b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok"], 200, b"ok", True),
        ([b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" + LENGTH], 200, b"ok", True),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\n\r\n", LENGTH], 200, b"ok", True),
        ([CHUNKED + b"\r\n1\r\no\r\n", b"1;x=y\r\nk\r\n0\r\nt: v\r\n\r\n"], 200, b"ok", True),
        # Both lengths: the chunks count, and what follows is not to be trusted.
        ([CHUNKED + b"content-length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n"], 200, b"ok", False),
        ([b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"], 200, b"ok", False),
        ([b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nokjunk"], 200, b"ok", False),
        ([b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"], 200, b"ok", False),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"o", b"k"], 200, b"ok", False),
        # More than was asked for.
        ([LENGTH + b"HTTP/1.1 500 Other\r\ncontent-length: 5\r\n\r\nother"], 200, b"ok", False),
        ([LENGTH + b"junk"], 200, b"ok", False),
    ],
)  # fmt: skip
def test_a_response_is_received_whole(answer: list[bytes], status: int, body: bytes, reusable: bool) -> None:
    with server(answering(*answer)) as connect:
        connection = connect()

        assert exchange(connection) == (status, body)

        assert connection.reusable is reusable


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 smtp ready\r\n\r\n",
        b"HTTP/1.1 2",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nxyz",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno header\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000 + LENGTH,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nt: " + b"y" * 800_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_whole_response_is_an_error(answer: bytes) -> None:
    def talk(accepted: socket.socket) -> None:
        received(accepted)
        with suppress(OSError):  # the client may have heard enough
            accepted.sendall(answer)

    with server(talk) as connect:
        connection = connect()

        with pytest.raises(h11.RemoteProtocolError):
            exchange(connection)

        assert not connection.reusable
        connection.close()


def test_an_answer_that_comes_before_the_whole_request_counts() -> None:
    """A server says 413 and hangs up while a large body is on its way."""
    answered = threading.Event()

    def talk(accepted: socket.socket) -> None:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        accepted.recv(100)
        accepted.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        accepted.shutdown(socket.SHUT_WR)
        answered.set()

    with server(talk) as connect:
        connection = connect()
        content = b"x" * (64 << 20)

        headers = [("host", "app.example"), ("content-length", str(len(content)))]
        connection.send(h11.Request(method="POST", target=b"/", headers=headers), content, Deadline(30))
        connection.read_head()

        assert connection.status == 413
        assert not connection.reusable


def test_a_body_in_tiny_chunks_is_handed_on_as_it_was_read() -> None:
    with server(answering(CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")) as connect:
        connection = connect()
        connection.send(REQUEST, b"{}", Deadline(30))
        connection.read_head()

        pieces = list(connection.chunks())

    assert b"".join(pieces) == b"x" * 1000
    assert len(pieces) < 10


def test_a_second_request_goes_over_the_same_connection() -> None:
    seen: list[bytes] = []

    def talk(accepted: socket.socket) -> None:
        for answer in (LENGTH, b"HTTP/1.1 202 Accepted\r\nx: 1\r\ncontent-length: 0\r\n\r\n"):
            seen.append(received(accepted))
            accepted.sendall(answer)

    with server(talk) as connect:
        connection, idle = connect(), IdleConnections()
        exchange(connection)
        idle.give_back("app", connection)

        assert idle.take("other") is None
        again = idle.take("app")

        assert again is connection
        assert exchange(again) == (202, b"")
        assert again.headers == {"x": "1", "content-length": "0"}
        assert seen == [HEAD + b"{}"] * 2


@pytest.mark.parametrize("surplus", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
def test_stale_connection_is_not_reused(surplus: bytes) -> None:
    more, sent = threading.Event(), threading.Event()

    def talk(accepted: socket.socket) -> None:
        answering(LENGTH)(accepted)
        more.wait(30)
        accepted.sendall(surplus)
        if not surplus:
            accepted.shutdown(socket.SHUT_WR)
        sent.set()

    with server(talk) as connect:
        connection, idle = connect(), IdleConnections()
        exchange(connection)
        assert connection.reusable
        idle.give_back("app", connection)
        more.set()
        sent.wait(30)

        assert idle.take("app") is None


def used(connect: Callable[[], HttpConnection]) -> HttpConnection:
    """Return a connection that has had its first response."""
    connection = connect()
    exchange(connection)
    return connection


def is_open(connection: HttpConnection) -> bool:
    """Whether our side has not closed it."""
    return bool(connection._stream.get_extra_info("socket").fileno() >= 0)


def test_latest_connection_is_used_first_and_none_after_close() -> None:
    with server(answering(LENGTH), connections=3) as connect:
        first, second, third = used(connect), used(connect), used(connect)
        idle = IdleConnections()
        idle.give_back("app", first)
        idle.give_back("app", second)
        assert [idle._pop("app"), idle._pop("app"), idle._pop("app")] == [second, first, None]

        idle.give_back("app", third)
        idle.close()
        idle.give_back("app", first)

        assert idle._pop("app") is None
        assert not is_open(first)
        assert not is_open(third)


def test_idle_connections_are_closed_by_age_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(answering(LENGTH), connections=4) as connect:
        first, second, third, fourth = (used(connect) for _ in range(4))
        idle = IdleConnections(2)
        for each in (first, second, third):
            idle.give_back("app", each)
        assert [is_open(each) for each in (first, second, third)] == [False, True, True]

        monkeypatch.setattr(http_connection, "_KEEP_IDLE", -1.0)
        assert idle._pop("app") is None
        idle.give_back("app", fourth)
        assert [is_open(each) for each in (second, third, fourth)] == [False, False, False]
