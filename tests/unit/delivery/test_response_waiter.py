"""One thread that waits for the responses of many sends, and each way in which a network fails it. Sockets are real."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from handlers import Delivery, Receipt, Refused, Unavailable
from handlers.http import HttpOptions, HttpSink
from handlers.support import http_connection
from handlers.support.request_sink import PreparedSend
from handlers.testing.conformance import NoServices
from receiver.delivery import response_waiter
from receiver.delivery.response_waiter import can_wait_together
from receiver.delivery.send_task import SendTask
from receiver.delivery.sender import SenderPool
from receiver.ledger.deliveries.claimed import Claimed
from tests.support.events import count_parses
from tests.support.waiting import eventually

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
# What a server does with a connection.
Talk = Callable[[socket.socket], None]


class Server:
    """A server on loopback. `talks`: what it does with each connection, in order; the last one for all that follow.

    `requests`: the bodies that have arrived. `connections`: how many were made, and `most` how many were open at once.
    """

    def __init__(self, stack: ExitStack, *talks: Talk, tls: ssl.SSLContext | None = None) -> None:
        self._talks = list(talks)
        self._tls = tls
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=256))
        self.requests: list[bytes] = []
        self.connections = 0
        self._threads: list[threading.Thread] = []
        self._stack = stack
        stack.callback(self._stop)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        self.port = self._listener.getsockname()[1]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted = self._listener.accept()[0]
                self.connections += 1
                talk = self._talks.pop(0) if len(self._talks) > 1 else self._talks[0]
                thread = threading.Thread(target=self._serve, args=(accepted, talk), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, accepted: socket.socket, talk: Talk) -> None:
        with suppress(OSError), accepted:
            if self._tls:
                accepted = self._tls.wrap_socket(accepted, server_side=True)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.settimeout(60)
            with accepted:
                talk(accepted)

    def _stop(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(30)

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


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def serve(stack: ExitStack) -> Callable[..., Server]:
    """Return a function that starts a server, which answers with these parts, each in a packet of its own, then closes.

    `keeps`: it does not close, and waits for the next request.
    """

    def make(*parts: bytes, keeps: bool = False, pause: float = 0.0, tls: ssl.SSLContext | None = None) -> Server:
        def talk(accepted: socket.socket) -> None:
            while server.read(accepted):
                for part in parts:
                    accepted.sendall(part)
                    time.sleep(pause)
                if not keeps:
                    return

        server = Server(stack, talk, tls=tls)
        return server

    return make


def reset(accepted: socket.socket) -> None:
    """Close with a RST."""
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()


def http_sink(server: Server, *, timeout: float = 60.0, **options: object) -> HttpSink:
    url = f"http://127.0.0.1:{server.port}/hook"
    return HttpSink("hook", HttpOptions(**{"url": url, "timeout": timeout, **options}), NoServices())  # type: ignore[arg-type]


def task(
    name: str, body: bytes = b'{"task_id": "tsk_1", "status": "completed"}', *, prefetched: bool = False
) -> SendTask:
    claimed = Claimed(
        name, f"evt_{name}", "hook", "hook", "all", 1, 0, False, "skyvern", "tsk_1", "completed", "webhook", "",
        time.time(), {}, (), body=body, prefetched=prefetched,
    )  # fmt: skip
    return SendTask(1, [claimed], {})


@contextmanager
def pool(sink: HttpSink, slots: int = 8) -> Iterator[SenderPool]:
    senders = SenderPool(sink, slots, sink.options.timeout + 2)
    yield senders
    senders.close()
    eventually(lambda: not waiting(), what=lambda: "the thread that waits has not ended")
    sink.close()


def waiting() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "hook-waiter" in thread.name]


def collected(senders: SenderPool, *tasks: SendTask) -> list[Receipt | Exception]:
    """Return the answers to tasks that were started, in their order, once there are all."""
    eventually(lambda: senders.collect(0.1) is None or all(each.ended for each in tasks))
    return [answer for each in tasks for answer in each.answers]


def send(senders: SenderPool, *names: str) -> list[Receipt | Exception]:
    """Send in turn, one after another, so that each may use the connection of the one before."""
    answers: list[Receipt | Exception] = []
    for name in names:
        it = task(name)
        senders.start(it)
        answers += collected(senders, it)
    return answers


def test_sends_share_one_thread_and_one_connection(serve: Callable[..., Server]) -> None:
    server = serve(OK, keeps=True)
    with pool(http_sink(server)) as senders:
        assert send(senders, "a", "b", "c") == [Receipt("a"), Receipt("b"), Receipt("c")]
        assert len(waiting()) == 1
    assert (server.connections, len(server.requests)) == (1, 3)


def test_many_are_open_at_once_and_what_is_queued_starts_in_the_slots_that_they_free(stack: ExitStack) -> None:
    # Given a server that answers nothing before 300 requests have come
    slots, arrived = 300, threading.Semaphore(0)
    all_there = threading.Event()

    def talk(accepted: socket.socket) -> None:
        while server.read(accepted):
            if len(server.requests) >= slots:
                all_there.set()
            all_there.wait(60)
            accepted.sendall(OK)
            arrived.release()

    server = Server(stack, talk)
    with pool(http_sink(server), slots) as senders:
        first = [task(f"a{number}") for number in range(slots)]
        second = [task(f"b{number}", prefetched=True) for number in range(slots)]
        for each in first:
            senders.start(each)
        for each in second:
            senders.enqueue(each)
        # Then all are accepted, in one thread that waits, and no more than the pool's threads connected
        answers = collected(senders, *first, *second)
        assert answers == [Receipt(each.claimed[0].id) for each in (*first, *second)]
        assert not senders.worn_out
    assert sorted(server.requests) == sorted(server.requests[:1] * (2 * slots))
    assert server.connections <= slots


@pytest.mark.parametrize(
    ("parts", "answer"),
    [
        ((b"HTTP/1.1 100 Continue\r\n\r\n", OK), Receipt("a")),
        (tuple(bytes([each]) for each in OK), Receipt("a")),
        ((b"HTTP/1.1 200 OK\r\n\r\n", b"until the end"), Receipt("a")),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 70_000,), Receipt("a")),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), Receipt("a")),
        ((), "the connection broke"),
        ((b"HTTP/1.1 2",), "the connection broke"),
        ((b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok",), "the connection broke"),
        ((b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",), "the connection broke"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, OK), "the connection broke"),
        ((b"220 smtp ready\r\n",), "the connection broke"),
        ((b"HTTP/1.1 503 Away\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",), "answered 503"),
    ],
)
@pytest.mark.parametrize("kept", [False, True])
def test_a_response_is_read_whole_or_is_none(
    serve: Callable[..., Server], stack: ExitStack, parts: tuple[bytes, ...], answer: Receipt | str, *, kept: bool
) -> None:
    """Over a new connection, whose request a thread of the pool has written, and over one that has had another."""

    def talk(accepted: socket.socket) -> None:
        if kept:
            server.read(accepted)
            accepted.sendall(OK)
        server.read(accepted)
        for part in parts:
            accepted.sendall(part)

    server = Server(stack, talk)
    with pool(http_sink(server)) as senders:
        if kept:
            assert send(senders, "before") == [Receipt("before")]
        (found,) = send(senders, "a")
    assert found == answer or (isinstance(found, Unavailable) and str(answer) in str(found))
    assert len(server.requests) == (2 if kept else 1)  # nothing is sent twice


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok"])
def test_a_reset_before_within_and_after_the_head_is_unavailable(stack: ExitStack, before: bytes) -> None:
    def talk(accepted: socket.socket) -> None:
        server.read(accepted)
        accepted.sendall(before)
        reset(accepted)

    server = Server(stack, talk)
    with pool(http_sink(server)) as senders:
        (found,) = send(senders, "a")
    assert isinstance(found, Unavailable)
    assert "the connection broke" in str(found)
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", [reset, socket.socket.close])
def test_a_kept_connection_that_the_server_closes_after_the_request_is_not_used_for_a_second_post(
    stack: ExitStack, how: Talk
) -> None:
    def talk(accepted: socket.socket) -> None:
        server.read(accepted)
        accepted.sendall(OK)
        server.read(accepted)
        how(accepted)

    server = Server(stack, talk)
    with pool(http_sink(server)) as senders:
        first, second = send(senders, "a", "b")
        assert first == Receipt("a")
        assert isinstance(second, Unavailable)
    assert (server.connections, len(server.requests)) == (1, 2)


def test_a_kept_connection_that_the_server_has_closed_already_is_replaced(serve: Callable[..., Server]) -> None:
    server = serve(OK)
    with pool(http_sink(server)) as senders:
        assert send(senders, "a") == [Receipt("a")]
        for thread in list(server._threads):
            thread.join(60)
        assert send(senders, "b") == [Receipt("b")]
    assert server.connections == 2


def test_a_kept_connection_that_the_server_closes_wakes_the_thread_once(stack: ExitStack) -> None:
    # Given a connection that waits for its next request
    close = threading.Event()

    def talk(accepted: socket.socket) -> None:
        server.read(accepted)
        accepted.sendall(OK)
        close.wait(60)

    server = Server(stack, talk)
    sink = http_sink(server)
    with pool(sink) as senders:
        assert send(senders, "a") == [Receipt("a")]
        watch = sink.client()._idle._idle[0][2].attachment
        assert watch.registered
        # When its server closes it, which can be read for ever
        close.set()
        # Then nobody looks at it any more, and the next request gets another
        eventually(lambda: not watch.registered)
        assert send(senders, "b") == [Receipt("b")]
    assert server.connections == 2


def test_the_number_of_a_connection_that_was_closed_while_it_was_idle_may_be_anothers(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "_KEEP_IDLE", -1.0)  # each is closed by the next one that is given back
    server = serve(OK, keeps=True)
    with pool(http_sink(server)) as senders:
        names = [f"t{number}" for number in range(20)]
        assert send(senders, *names) == [Receipt(name) for name in names]
    assert server.connections == 20


def test_silence_ends_with_the_deadline(stack: ExitStack) -> None:
    done = threading.Event()

    def talk(accepted: socket.socket) -> None:
        server.read(accepted)
        done.wait(60)

    server = Server(stack, talk)
    with pool(http_sink(server, timeout=0.3)) as senders:
        (found,) = send(senders, "a")
        done.set()
    assert isinstance(found, Unavailable)
    assert "did not answer in time" in str(found)


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"])
def test_a_drip_of_bytes_does_not_outlast_the_deadline(stack: ExitStack, begins: bytes) -> None:
    def talk(accepted: socket.socket) -> None:
        server.read(accepted)
        accepted.sendall(begins or b"HTTP/1.1 200 OK\r\nx: ")
        while True:  # until the client has closed
            accepted.sendall(b"y")
            time.sleep(0.01)

    server = Server(stack, talk)
    with pool(http_sink(server, timeout=0.5)) as senders:
        (found,) = send(senders, "a")
    assert isinstance(found, Unavailable)
    assert "did not answer in time" in str(found)


def test_a_slow_send_holds_up_no_other(stack: ExitStack) -> None:
    go_on = threading.Event()

    def slow(accepted: socket.socket) -> None:
        server.read(accepted)
        go_on.wait(60)
        accepted.sendall(OK)

    def fast(accepted: socket.socket) -> None:
        while server.read(accepted):
            accepted.sendall(OK)

    server = Server(stack, slow, fast)
    with pool(http_sink(server)) as senders:
        waits = task("slow")
        senders.start(waits)
        eventually(lambda: server.requests)
        others = [task(f"t{number}") for number in range(5)]
        for each in others:
            senders.start(each)
        collected(senders, *others)
        assert not waits.ended
        go_on.set()
        assert collected(senders, waits) == [Receipt("slow")]


def test_nothing_listens(serve: Callable[..., Server], stack: ExitStack) -> None:
    with ExitStack() as gone:
        server = Server(gone, reset)
    with pool(http_sink(server)) as senders:
        (found,) = send(senders, "a")
    assert isinstance(found, Unavailable)
    assert "can't be reached" in str(found)


@pytest.mark.parametrize("kept", [False, True])
def test_a_large_body_and_one_that_does_not_go_out_at_once_are_written_whole(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    """In a thread of the pool: the server reads nothing before the thread that waits has answered another send."""
    monkeypatch.setattr(response_waiter, "AT_ONCE", 64 << 20)
    monkeypatch.setattr(http_connection, "_WRITE_SIZE", 32 << 20)
    read_on = threading.Event()

    def large(accepted: socket.socket) -> None:
        if kept:
            server.read(accepted)
            accepted.sendall(OK)
        read_on.wait(60)
        if server.read(accepted):
            accepted.sendall(OK)

    def fast(accepted: socket.socket) -> None:
        while server.read(accepted):
            accepted.sendall(OK)

    server = Server(stack, large, fast)
    body = b'{"task_id": "tsk_1", "status": "completed", "output": "' + b"x" * (24 << 20) + b'"}'
    with pool(http_sink(server)) as senders:
        if kept:
            assert send(senders, "before") == [Receipt("before")]
        it = task("large", body)
        senders.start(it)
        eventually(lambda: it.in_thread and server.connections)
        other = task("other")
        senders.start(other)
        collected(senders, other)
        assert not it.ended
        read_on.set()
        assert collected(senders, it) == [Receipt("large")]
    assert body in server.requests


def test_a_body_is_given_up_once_its_request_is_written(stack: ExitStack) -> None:
    """So 10,000 sends that wait hold no bodies."""
    go_on = threading.Event()

    def talk(accepted: socket.socket) -> None:
        server.read(accepted)
        go_on.wait(60)
        accepted.sendall(OK)

    server = Server(stack, talk)
    with pool(http_sink(server)) as senders:
        it = task("a")
        size = len(it.claimed[0].body)
        senders.start(it)
        assert senders.bytes in (0, size)
        eventually(lambda: senders.bytes == 0)
        assert not it.ended
        go_on.set()
        assert collected(senders, it) == [Receipt("a")]


def test_a_template_is_computed_in_a_thread_of_the_pool(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without one no body is parsed."""
    server = serve(OK, keeps=True)
    names: list[str] = []
    parsed = count_parses(monkeypatch)

    class Watched(HttpSink):
        def prepare(self, delivery: Delivery) -> PreparedSend:
            names.append(threading.current_thread().name)
            return super().prepare(delivery)

    for template in (None, '{"text": {{ run.status | tojson }} }'):
        names.clear()
        plain = http_sink(server, template=template)
        with pool(Watched("hook", plain.options, NoServices())) as senders:
            send(senders, "a", "b", "c")
        assert len(parsed) == (3 if template else 0)
        # The first one makes the client, in a thread of the pool: whose threads have numbers
        where = ["waiter" if name.endswith("-waiter") else name.rpartition("-")[2].isdecimal() for name in names[1:]]
        assert where == [True if template else "waiter"] * 2
    assert server.requests[-1] == b'{"text": "completed" }'


def test_errors_of_the_two_functions_are_the_answer(serve: Callable[..., Server]) -> None:
    class Broken(HttpSink):
        def prepare(self, delivery: Delivery) -> PreparedSend:
            if delivery.key == "refused":
                raise Refused("never")
            prepared = super().prepare(delivery)
            return prepared if delivery.key != "bug" else prepared._replace(receipt=lambda _: 1 // 0)  # type: ignore[arg-type]

    server = serve(OK, keeps=True)
    with pool(Broken("hook", http_sink(server).options, NoServices())) as senders:
        found = send(senders, "a", "refused", "bug", "b")
    assert [type(each) for each in found] == [Receipt, Refused, ZeroDivisionError, Receipt]


def test_a_thread_that_hangs_in_its_code_is_noticed_as_a_send_that_hangs(serve: Callable[..., Server]) -> None:
    go_on = threading.Event()

    class Hanging(HttpSink):
        def prepare(self, delivery: Delivery) -> PreparedSend:
            if delivery.key == "hangs":
                go_on.wait(120)
            return super().prepare(delivery)

    server = serve(OK, keeps=True)
    sink = Hanging("hook", http_sink(server, timeout=1.0).options, NoServices())
    with pool(sink) as senders:
        assert send(senders, "a") == [Receipt("a")]
        assert not senders.worn_out
        (found,) = send(senders, "hangs")
        assert "no answer within 1 s" in str(found)
        assert senders.worn_out
        go_on.set()


def test_a_thread_that_hangs_is_noticed_before_a_send_passes_its_limit(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_waiter, "_HANGS_FOR_SURE", 0.2)
    monkeypatch.setattr(response_waiter, "_LOOK_AGAIN", 0.1)
    go_on = threading.Event()

    class Hanging(HttpSink):
        def prepare(self, delivery: Delivery) -> PreparedSend:
            if delivery.key == "hangs":
                go_on.wait(120)
            return super().prepare(delivery)

    server = serve(OK, keeps=True)
    with pool(Hanging("hook", http_sink(server, timeout=600.0).options, NoServices())) as senders:
        assert send(senders, "a") == [Receipt("a")]
        it = task("hangs")
        senders.start(it)
        eventually(lambda: senders.ended() == [] and senders.worn_out)
        assert not it.ended
        go_on.set()
        assert collected(senders, it) == [Receipt("hangs")]


def test_a_process_that_was_stopped_has_not_hung(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock has gone on, and whoever looks first finds a step that seems to have taken all that time."""
    server = serve(OK, keeps=True)
    with pool(http_sink(server)) as senders:
        waiter = senders._waiter
        assert waiter is not None
        monkeypatch.setattr(waiter, "_step_since", time.monotonic() - 60)
        assert not waiter.hangs_for_sure()
        monkeypatch.setattr(waiter, "_suspected", (time.monotonic() - 50, time.monotonic() - 40))  # an earlier step
        assert not waiter.hangs_for_sure()
        assert send(senders, "a") == [Receipt("a")]
        assert not senders.worn_out


def test_a_pools_thread_that_hangs_wears_it_out_only_where_it_shares_a_process(serve: Callable[..., Server]) -> None:
    go_on = threading.Event()

    class Hanging(HttpSink):
        prepares_at_once = False

        def prepare(self, delivery: Delivery) -> PreparedSend:
            if delivery.key == "hangs":
                go_on.wait(120)
            return super().prepare(delivery)

    server = serve(OK, keeps=True)
    for shares in (False, True):
        go_on.clear()
        with pool(Hanging("hook", http_sink(server, timeout=1.0).options, NoServices())) as senders:
            if shares:
                senders.share(lambda _running: None)
            assert "no answer within" in str(send(senders, "hangs")[0])
            assert senders.worn_out is shares
            assert send(senders, "b") == [Receipt("b")]
            go_on.set()
    assert b"".join(server.requests).count(b"tsk_1") == 2  # what was given up is not sent afterwards


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that signs itself, and what a server needs of it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context


def test_over_tls(
    certificate: tuple[Path, ssl.SSLContext], serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "_FIRST_READ", 1000)  # less than a record: the rest makes no socket readable
    authority, context = certificate
    # An answer of several records
    server = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n", b"x" * 60_000, keeps=True, tls=context)
    sink = http_sink(server, url=f"https://127.0.0.1:{server.port}/", ca=authority)
    with pool(sink) as senders:
        assert send(senders, "a", "b", "c") == [Receipt("a"), Receipt("b"), Receipt("c")]
    assert server.connections == 1


@pytest.mark.parametrize("slots", [1, 7, 64])
@pytest.mark.parametrize("tls", [False, True])
def test_each_of_many_sends_has_its_own_answer_whatever_the_others_meet(
    certificate: tuple[Path, ssl.SSLContext], stack: ExitStack, slots: int, *, tls: bool
) -> None:
    # Given a server that answers some at once and some byte by byte, and resets some before or within an answer
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
                accepted.sendall(b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n" if how == "is away" else OK)

    authority, context = certificate
    server = Server(stack, talk, tls=context if tls else None)
    options = {"url": f"https://127.0.0.1:{server.port}/", "ca": authority} if tls else {}
    hows = ("accepts", "drips", "resets", "accepts", "breaks off", "is away", "accepts")
    bodies = [json.dumps({"task_id": "tsk_1", "status": "completed", "how": hows[n % 7], "n": n}) for n in range(210)]
    waiting_to_start = [task(f"t{number}", body.encode()) for number, body in enumerate(bodies)]
    # When they are sent in as many slots, of which each goes on to the next
    tasks, answered = tuple(waiting_to_start), 0
    with pool(http_sink(server, **options), slots) as senders:
        while answered < len(tasks):
            for _ in range(min(senders.free, len(waiting_to_start))):
                senders.start(waiting_to_start.pop(0))
            answered += len(senders.collect(60))
    # Then each has had its own answer, and none went out twice
    for number, each in enumerate(tasks):
        (answer,) = each.answers
        how = hows[number % 7]
        if how in ("accepts", "drips"):
            assert answer == Receipt(f"t{number}")
        else:
            assert isinstance(answer, Unavailable), how
            assert ("answered 503" if how == "is away" else "the connection broke") in str(answer)
    assert sorted(server.requests) == sorted(body.encode() for body in bodies)


def test_a_sink_that_has_a_send_of_its_own_is_not_bypassed(serve: Callable[..., Server]) -> None:
    class Own(HttpSink):
        def send(self, delivery: Delivery) -> Receipt:
            return Receipt(f"own {delivery.key}")

    server = serve(OK)
    assert can_wait_together(http_sink(server))
    own = Own("hook", http_sink(server).options, NoServices())
    assert not can_wait_together(own)
    with pool(own) as senders:
        assert send(senders, "a") == [Receipt("own a")]
