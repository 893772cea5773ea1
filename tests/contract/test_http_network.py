"""The sink `http` on a network that fails: broken responses, resets, silence, drips, smuggled bytes."""

import json
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from handlers import Receipt, Refused, Unavailable
from handlers.http import HttpOptions, HttpSink
from handlers.testing.conformance import NoServices
from handlers.testing.samples import make_delivery

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n"
EVIL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
UNAVAILABLE = b"HTTP/1.1 503 Away\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"
# What a server does with a connection.
Talk = Callable[[socket.socket], None]


class Server:
    """A server on loopback. `talks`: what it does with each connection, in order; the last one for all that follow.

    `requests`: the bodies that have arrived. `connections`: how many were made.
    """

    def __init__(self, *talks: Talk, tls: ssl.SSLContext | None = None) -> None:
        self._talks, self._tls = list(talks), tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.connections = 0
        self.talking: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted = self._listener.accept()[0]
                self.connections += 1
                talk = self._talks.pop(0) if len(self._talks) > 1 else self._talks[0]
                self.talking.append(threading.Thread(target=self._serve, args=(accepted, talk), daemon=True))
                self.talking[-1].start()

    def _serve(self, accepted: socket.socket, talk: Talk) -> None:
        with suppress(OSError), accepted:
            if self._tls:
                accepted = self._tls.wrap_socket(accepted, server_side=True)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.settimeout(60)
            with accepted:
                talk(accepted)

    def stop(self) -> None:
        """End the thread that accepts."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(30)
        self._listener.close()

    def read(self, accepted: socket.socket) -> bytes:
        """Read one request. Returns its body, which has one byte at least; b"" at the end of the connection."""
        data = bytearray()
        while b"\r\n\r\n" not in data:
            if not (more := accepted.recv(65536)):
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(bytes(head).lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            if not (more := accepted.recv(65536)):
                return b""
            body += more
        self.requests.append(bytes(body))
        return bytes(body)


Serve, SinkTo = Callable[..., Server], Callable[..., HttpSink]


def reset(accepted: socket.socket) -> None:
    """Close with a RST."""
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: ExitStack) -> Serve:
    """Return a function that starts a server that does `talks`."""

    def start(*talks: Talk, tls: ssl.SSLContext | None = None) -> Server:
        server = Server(*talks, tls=tls)
        stack.callback(server.stop)
        return server

    return start


@pytest.fixture
def sink_to(stack: ExitStack) -> SinkTo:
    """Return a function that makes a sink for a server."""

    def make(server: Server, **options: object) -> HttpSink:
        given = {"url": f"http://127.0.0.1:{server.port}/hook", "timeout": 60.0, **options}
        sink = HttpSink("hook", HttpOptions.model_validate(given), NoServices())
        stack.callback(sink.close)
        return sink

    return make


def send(sink: HttpSink, key: str = "a", body: bytes = b'{"task_id": "tsk_1", "status": "completed"}') -> str:
    """Return "accepted", or why not."""
    try:
        assert sink.send(make_delivery(key=key, body=body)) == Receipt(key)
    except Unavailable as error:
        return str(error)
    return "accepted"


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("parts", "outcome"),
    [
        ((b"HTTP/1.1 100 Continue\r\n\r\n", OK), "accepted"),
        (tuple(bytes([each]) for each in OK), "accepted"),
        ((b"HTTP/1.1 200 OK\r\n\r\n", b"until the end"), "accepted"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 70_000,), "accepted"),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), "accepted"),
        ((b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok",), "accepted"),
        ((b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok",), "accepted"),
        ((b"HTTP/1.1 103 Hints\r\n\r\n" + CHUNKED, b"\r\n1\r\no\r\n", b"1;x=y\r\nk\r\n0\r\nt: v\r\n\r\n"), "accepted"),
        ((CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n",), "accepted"),
        ((b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",), "accepted"),
        ((), "the connection broke"),
        ((b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nxyz",), "the connection broke"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",), "the connection broke"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",), "the connection broke"),
        ((CHUNKED + b"\r\n2\r\nok\r\n",), "the connection broke"),
        ((CHUNKED + b"\r\n0\r\nt: " + b"y" * 800_000 + b"\r\n\r\n",), "the connection broke"),
        ((b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",), "the connection broke"),
        ((b"HTTP/1.1 200 OK\r\nno header\r\ncontent-length: 2\r\n\r\nok",), "the connection broke"),
        ((b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 2\r\n\r\nok",), "the connection broke"),
        ((b"HTTP/1.1 2",), "the connection broke"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",), "the connection broke"),
        ((b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",), "the connection broke"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, OK), "the connection broke"),
        ((b"220 smtp ready\r\n",), "the connection broke"),
        ((UNAVAILABLE,), "answered 503"),
    ],
)
def test_response_is_complete_or_delivery_is_retried(
    serve: Serve, sink_to: SinkTo, parts: tuple[bytes, ...], outcome: str, *, kept: bool
) -> None:
    """Over a new connection, and over one that has had another request. Nothing is sent twice."""

    def talk(accepted: socket.socket) -> None:
        if kept:
            server.read(accepted)
            accepted.sendall(OK)
        server.read(accepted)
        for part in parts:
            accepted.sendall(part)

    server = serve(talk)
    sink = sink_to(server)
    if kept:
        assert send(sink, "before") == "accepted"

    assert outcome in send(sink)

    assert len(server.requests) == (2 if kept else 1)


@pytest.mark.parametrize(
    "response",
    [
        OK + EVIL,
        OK + b"junk",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok" + EVIL,
        b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL,
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 45\r\n\r\n" + EVIL,
        CHUNKED + b"content-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n" + EVIL,
        CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n" + EVIL,
    ],
)
def test_unrequested_response_never_answers_next_request(serve: Serve, sink_to: SinkTo, response: bytes) -> None:
    """The next request goes over a new connection, where the server is unavailable."""

    def smuggling(accepted: socket.socket) -> None:
        server.read(accepted)
        accepted.sendall(response)
        server.read(accepted)

    def unavailable(accepted: socket.socket) -> None:
        server.read(accepted)
        accepted.sendall(UNAVAILABLE)

    server = serve(smuggling, unavailable)
    sink = sink_to(server, success=["2xx", 304])
    assert send(sink, "first") == "accepted"

    assert "answered 503" in send(sink, "second")

    assert server.connections == 2


def test_response_before_the_whole_request_counts(serve: Serve, sink_to: SinkTo) -> None:
    """A server says 413 and hangs up while a large body is on its way."""

    def talk(accepted: socket.socket) -> None:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        accepted.recv(100)
        accepted.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        accepted.shutdown(socket.SHUT_WR)

    with pytest.raises(Refused, match="answered 413"):
        send(sink_to(serve(talk)), body=b"x" * (64 << 20))


@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
@pytest.mark.parametrize("end", [reset, socket.socket.close])
@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok"])
def test_end_before_or_within_the_response_is_not_repeated(
    serve: Serve, sink_to: SinkTo, before: bytes, end: Talk, *, kept: bool
) -> None:
    def talk(accepted: socket.socket) -> None:
        if kept:
            server.read(accepted)
            accepted.sendall(OK)
        server.read(accepted)
        accepted.sendall(before)
        end(accepted)

    server = serve(talk)
    sink = sink_to(server)
    if kept:
        assert send(sink, "before") == "accepted"

    assert "the connection broke" in send(sink)

    assert (server.connections, len(server.requests)) == (1, 1 + kept)


def test_connection_closed_while_idle_is_replaced(serve: Serve, sink_to: SinkTo) -> None:
    def talk(accepted: socket.socket) -> None:
        server.read(accepted)
        accepted.sendall(OK)

    server = serve(talk)
    sink = sink_to(server)
    assert send(sink, "a") == "accepted"
    for thread in server.talking:
        thread.join(60)

    assert send(sink, "b") == "accepted"

    assert server.connections == 2


@pytest.mark.parametrize(
    "begins", [None, b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"]
)
def test_silence_and_drips_end_with_the_timeout(serve: Serve, sink_to: SinkTo, begins: bytes | None) -> None:
    done = threading.Event()

    def talk(accepted: socket.socket) -> None:
        server.read(accepted)
        if begins is None:
            done.wait(60)
            return
        accepted.sendall(begins)
        while True:  # until the client has closed
            accepted.sendall(b"y")
            time.sleep(0.01)

    server = serve(talk)
    reason = send(sink_to(server, timeout=0.4))
    done.set()

    assert "did not respond in time" in reason or "not done within" in reason


def test_large_body_is_written_completely(serve: Serve, sink_to: SinkTo) -> None:
    def talk(accepted: socket.socket) -> None:
        while server.read(accepted):
            accepted.sendall(OK)

    server = serve(talk)
    body = b'{"task_id": "tsk_1", "status": "completed", "output": "' + b"x" * (8 << 20) + b'"}'

    assert send(sink_to(server), body=body) == "accepted"

    assert server.requests == [body]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that signs itself, and what a server needs of it."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


@pytest.mark.parametrize("threads", [1, 7, 64])
@pytest.mark.parametrize("tls", [False, True])
def test_each_of_many_sends_gets_its_own_response(
    certificate: tuple[Path, ssl.SSLContext], serve: Serve, sink_to: SinkTo, threads: int, *, tls: bool
) -> None:
    # Given a server that accepts some at once and some byte by byte, and resets some before or within a response
    outcomes = {
        "accepts": "accepted",
        "drips": "accepted",
        "resets": "the connection broke",
        "breaks off": "the connection broke",
        "is unavailable": "answered 503",
    }

    def talk(accepted: socket.socket) -> None:
        while body := server.read(accepted):
            how = json.loads(body)["how"]
            if how == "drips":
                for byte in OK:
                    accepted.sendall(bytes([byte]))
            elif how in ("resets", "breaks off"):
                accepted.sendall(OK[:30] if how == "breaks off" else b"")
                reset(accepted)
                return
            else:
                accepted.sendall(UNAVAILABLE if how == "is unavailable" else OK)

    authority, context = certificate
    server = serve(talk, tls=context if tls else None)
    options = {"url": f"https://127.0.0.1:{server.port}/", "ca": str(authority)} if tls else {}
    sink = sink_to(server, **options)
    hows = [list(outcomes)[number % 5] for number in range(200)]
    bodies = [
        json.dumps({"task_id": "tsk_1", "status": "completed", "how": how, "n": number}).encode()
        for number, how in enumerate(hows)
    ]

    # When they are sent by as many threads
    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(lambda number: send(sink, f"t{number}", bodies[number]), range(len(bodies))))

    # Then each has its own outcome, and none was sent twice
    for how, result in zip(hows, results, strict=True):
        assert outcomes[how] in result, how
    assert sorted(server.requests) == sorted(bodies)
