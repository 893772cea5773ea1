"""How long a request may take to come in, and how many may be unfinished, on a real uvicorn with our protocol."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from receiver.ingest.endpoint import ANSWER
from receiver.web import connections, http_protocol
from receiver.web.connections import Bounds, Connections
from receiver.web.part import ABORT
from tests.support.waiting import PATIENCE, eventually
from tests.support.web_server import serve

BOUND = 0.4
# Bytes of an answer in one piece, more than all buffers take.
WHOLE = 16 << 20
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\ncontent-length: %d\r\n\r\n"
# That the answer to /filled has filled all buffers.
FILLED = threading.Event()


async def answer_much(scope: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/filled":
        transport = scope["extensions"][ABORT].__self__.transport
        while transport.get_write_buffer_size() < 32 << 10:  # a kernel that is only late would take it soon
            await send({"type": "http.response.body", "body": bytes(8192), "more_body": True})
            await asyncio.sleep(0.001)
        FILLED.set()
    for _ in range(100 if scope["path"] == "/large" else 0):
        await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
    await send({"type": "http.response.body", "body": bytes(WHOLE) if scope["path"] == "/whole" else b""})


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        if scope["path"] == "/slow":
            await asyncio.sleep(BOUND * 3)
        if scope["path"] == "/at-once" and scope["extensions"][ANSWER](b"HTTP/1.1 202 Accepted\r\nX: y\r\n", b""):
            return
        if scope["path"] == "/gone":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if scope["path"] == "/refused":
            await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return
        if scope["path"] in ("/large", "/whole", "/filled"):
            await answer_much(scope, send)
            return
        if scope["path"] == "/paused":
            await receive()
            await asyncio.sleep(BOUND * 4)
        while scope["method"] == "POST":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def limits() -> Connections:
    return Connections(Bounds(100, 50, 20))


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch, limits: Connections) -> AsyncIterator[int]:
    for name in ("STALL", "HEAD_SECONDS", "BODY_SECONDS", "LINGER", "UNREAD"):
        monkeypatch.setattr(connections, name, BOUND)
    monkeypatch.setattr(http_protocol, "SWEEP_EVERY", 0.02)
    options = http_protocol.options(limits, lifespan="off")
    async with serve(app, options) as served:
        yield served.port


async def answer_of_one_who_sends_all_first(port: int, sent: bytes) -> bytes:
    """What a plain client gets that looks for no answer before it has sent everything."""

    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(sent)
            got = b""
            while piece := client.recv(65536):
                got += piece
            return got

    return await asyncio.to_thread(talk)


async def answers(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that comes back until the server closes the connection. No piece is sent once it has refused something."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""

    async def read() -> None:
        nonlocal got
        with contextlib.suppress(ConnectionResetError):  # a piece was on its way when the server closed
            while piece := await reader.read(65536):
                got += piece

    try:
        reading = asyncio.create_task(read())
        for piece in pieces:
            if b"HTTP/1.1 4" in got:
                break
            writer.write(piece)
            await asyncio.sleep(pause)
        async with asyncio.timeout(120):
            await reading
        return got
    finally:
        writer.close()


def statuses(got: bytes) -> list[bytes]:
    return [line.split()[1] for line in got.split(b"\r\n") if line.startswith(b"HTTP/")]


@pytest.mark.parametrize(
    "requests",
    [(REQUEST,), (REQUEST, REQUEST), (POST.replace(b"/", b"/refused", 1) % 4, b"body"), (REQUEST, b"\r\n")],
)
async def test_an_idle_connection_is_closed_after_its_time(
    port: int, monkeypatch: pytest.MonkeyPatch, requests: tuple[bytes, ...]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        writer.write(request)
        if request not in (b"body", b"\r\n"):  # which come when the answer has been given
            assert (await reader.readuntil(b"\r\n\r\n")).startswith((b"HTTP/1.1 204", b"HTTP/1.1 413"))
    monkeypatch.setattr(connections, "KEEP_ALIVE", BOUND / 4)
    assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()


async def test_an_answer_at_once_comes_in_its_turn_and_a_last_one_says_that_it_is_the_last(port: int) -> None:
    at_once = REQUEST.replace(b"/", b"/at-once", 1)
    last = at_once.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    got = await answers(port, REQUEST.replace(b"/", b"/slow", 1) + at_once + REQUEST + last)
    assert statuses(got) == [b"204", b"202", b"204", b"204"]
    assert (got.count(b"X: y\r\n"), got.count(b"date: "), got.count(b"connection: close")) == (1, 4, 1)


async def test_a_head_that_takes_too_long_is_refused(port: int) -> None:
    got = await answers(port, b"GET / HTTP/1.1\r\n", *(b"X: y\r\n" for _ in range(4)), pause=BOUND / 6)
    assert got.startswith(b"HTTP/1.1 408 Request Timeout")
    assert b'"code":"timed_out"' in got


async def test_each_answer_has_its_date_a_refusal_too(port: int) -> None:
    got = await answers(port, REQUEST, b"no HTTP\r\n\r\n", pause=0.05)
    dates = [line.partition(b": ")[2].decode() for line in got.split(b"\r\n") if line.lower().startswith(b"date: ")]
    assert got.count(b"HTTP/1.1 ") == len(dates) == 2
    assert all(abs(parsedate_to_datetime(date).timestamp() - time.time()) < 60 for date in dates)


async def test_a_connection_that_sends_blank_lines_alone_is_closed(port: int) -> None:
    assert statuses(await asyncio.wait_for(answers(port, b"\r\n"), PATIENCE)) == [b"408"]


async def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    assert (await answers(port)).startswith(b"HTTP/1.1 408 ")


async def test_the_second_head_of_a_connection_has_the_same_bound_as_the_first(port: int) -> None:
    got = await answers(port, REQUEST, b"GET / HTTP/1.1\r\n", pause=0.05)
    assert got.count(b"HTTP/1.1 204") == 1
    assert got.count(b"HTTP/1.1 408") == 1


async def test_an_answer_that_takes_long_comes_before_the_refusal_of_the_next_head(port: int) -> None:
    got = await answers(port, REQUEST.replace(b"/ ", b"/slow "), b"GET / HTTP/1.1\r\n", pause=0.05)
    assert statuses(got) == [b"204", b"408"]


@pytest.mark.parametrize("ends", [False, True], ids=["", "and its side ended"])
@pytest.mark.parametrize(
    "broken",
    [
        b"no HTTP\r\n\r\n",
        REQUEST[:-2] + b"a:b\r\n" * 300,
        REQUEST.replace(b"/ ", b"/\xff ", 1),
        b"POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\nno length\r\n",
    ],
    ids=["line", "headers", "target", "body"],
)
async def test_what_is_no_http_is_refused_after_the_answers_to_all_before_it(
    port: int, monkeypatch: pytest.MonkeyPatch, broken: bytes, ends: bool
) -> None:
    monkeypatch.setattr(http_protocol, "HALF_CLOSED", 300.0)
    for name in ("STALL", "HEAD_SECONDS", "LINGER"):  # or a busy machine is told that it is slow
        monkeypatch.setattr(connections, name, 60.0)
    # Given two requests that are whole, and at once with them what is none
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    whole = POST % 0
    writer.write(whole.replace(b"/ ", b"/slow ") + whole + broken)
    if ends:
        writer.write_eof()
    else:  # and what still comes is part of nothing
        await asyncio.sleep(0.05)
        writer.write(REQUEST)
    # Then each is answered in its turn
    async with asyncio.timeout(PATIENCE):
        assert statuses(await reader.read()) == [b"204", b"204", b"431" if b"a:b" in broken else b"400"]
    writer.close()


@pytest.mark.parametrize(
    ("pieces", "bound"), [([], "STALL"), ([b"x"] * 20, "BODY_SECONDS")], ids=["silent", "trickling"]
)
async def test_a_body_that_stops_or_trickles_is_refused(
    port: int, limits: Connections, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], bound: str
) -> None:
    # Given a head that has come, however busy the machine is
    for name in ("STALL", "HEAD_SECONDS", "BODY_SECONDS"):
        monkeypatch.setattr(connections, name, 300.0)
    getting = asyncio.create_task(answers(port, POST % 100, b"x", *pieces, pause=BOUND / 10))
    await asyncio.to_thread(eventually, lambda: limits.gauges()["body"])
    # When the body does not come in time
    monkeypatch.setattr(connections, bound, BOUND)
    got = await getting
    # Then it is refused
    assert statuses(got) == [b"408"]
    assert b"the body of the request came too slowly" in got


async def test_a_body_is_not_late_while_it_is_the_application_that_does_not_read(port: int) -> None:
    body = bytes(300_000)
    head = (POST % len(body)).replace(b"/ ", b"/paused ").replace(b"Host: x", b"Host: x\r\nconnection: close")
    assert statuses(await answers(port, head + body)) == [b"204"]


async def test_the_rest_of_a_refused_body_is_not_read_for_ever(port: int) -> None:
    got = await answers(port, (POST % 10_000).replace(b"/ ", b"/refused "), b"x")
    assert statuses(got) == [b"413"]


async def test_who_is_refused_while_it_sends_gets_the_answer_and_no_reset(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STALL", "HEAD_SECONDS", "BODY_SECONDS", "LINGER"):
        monkeypatch.setattr(connections, name, 60.0)
    body = bytes(24 << 20)
    head = (POST % len(body)).replace(b"/ ", b"/refused ")
    for sent in (
        head.replace(b"Host: x", b"Host: x\r\nconnection: close") + body,
        head.replace(b"HTTP/1.1", b"HTTP/1.0") + body,
    ):
        assert statuses(await answer_of_one_who_sends_all_first(port, sent)) == [b"413"]
    assert statuses(await answer_of_one_who_sends_all_first(port, REQUEST[:-2] + b"a: b\r\n" * (300 << 10))) == [b"431"]
    assert statuses(await answer_of_one_who_sends_all_first(port, b"no HTTP\r\n\r\n" + bytes(2 << 20))) == [b"400"]


async def test_the_rest_of_a_refused_request_is_read_up_to_a_limit(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINGER_BYTES", 1 << 20)
    body = bytes(64 << 20)
    head = (POST % len(body)).replace(b"/ ", b"/refused ").replace(b"Host: x", b"Host: x\r\nconnection: close")
    with pytest.raises(ConnectionError):
        await answer_of_one_who_sends_all_first(port, head + body)


@pytest.mark.parametrize("path", [b"/", b"/slow"])
async def test_who_ends_its_side_after_the_request_still_gets_the_answer(port: int, path: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write((POST % 3).replace(b"/ ", path + b" ") + b"abc" + POST % 1 + b"d")
    writer.write_eof()
    async with asyncio.timeout(60):
        assert statuses(await reader.read()) == [b"204", b"204"]
    writer.close()


@pytest.mark.parametrize("request_", [REQUEST, POST % 0, POST % 9, REQUEST[:-2]], ids=["GET", "POST", "body", "head"])
async def test_who_ends_its_side_is_taken_for_gone_after_a_while(
    port: int, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    for name in ("STALL", "HEAD_SECONDS", "BODY_SECONDS"):
        monkeypatch.setattr(connections, name, 300.0)
    for name in ("HALF_CLOSED", "HALF_CLOSED_GET"):
        monkeypatch.setattr(http_protocol, name, BOUND)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_.replace(b"/ ", b"/gone "))
    writer.write_eof()
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    writer.close()


async def test_an_answer_that_nobody_reads_is_broken_off(port: int, limits: Connections) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(REQUEST.replace(b"/ ", b"/large "))
    await asyncio.to_thread(eventually, lambda: limits.ended["slow"])  # it has taken what fits into buffers
    received, end = 0, b""
    async with asyncio.timeout(60):
        while piece := await reader.read(1 << 20):
            received, end = received + len(piece), piece[-10:]
    writer.close()
    assert received < 100 << 20
    assert not end.endswith(b"\r\n0\r\n\r\n")


async def test_a_large_answer_that_is_read_slowly_comes_whole(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    writer.write(REQUEST.replace(b"/ ", b"/whole "))
    began, received = time.monotonic(), 0
    async with asyncio.timeout(60):
        while received < WHOLE and (piece := await reader.read(1 << 18)):
            received += len(piece)
            await asyncio.sleep(BOUND / 20)
    writer.close()
    assert received >= WHOLE
    assert time.monotonic() - began > 2 * BOUND


async def test_a_connection_does_not_wait_for_ever_to_close(port: int, limits: Connections) -> None:
    def talk() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(REQUEST.replace(b"/ ", b"/filled ").replace(b"Host: x", b"Host: x\r\nconnection: close"))
            assert FILLED.wait(PATIENCE)
            eventually(lambda: limits.ended["slow"])  # its answer has ended, and there was no room for it
            end = b""
            with contextlib.suppress(ConnectionError):
                while piece := client.recv(1 << 20):
                    end = piece[-10:]
            return end

    assert not (await asyncio.to_thread(talk)).endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("head", [REQUEST[:-2], POST[:-2] % 9], ids=["head", "body"])
async def test_a_request_that_is_not_whole_has_few_headers(port: int, head: bytes) -> None:
    end = b"\r\nx" if head.startswith(b"POST") else b""
    assert statuses(await answers(port, head + b"a:b\r\n" * 300 + end)) == [b"431"]
    assert statuses(await answers(port, head + b"a:b\r\n" * 100 + end)) == [b"408"]


async def test_of_thousands_of_requests_at_once_few_are_taken(port: int) -> None:
    last = REQUEST.replace(b"Host: x", b"Host: x\r\nconnection: close")
    assert statuses(await answers(port, REQUEST * 20 + last)) == [b"204"] * 21
    with contextlib.suppress(ConnectionError):
        assert len(statuses(await answers(port, REQUEST * 5000 + last))) < 1000


async def test_an_answer_that_is_broken_off_with_a_request_behind_it_leaves_no_line_in_the_log(
    port: int, limits: Connections, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(REQUEST.replace(b"/ ", b"/large ") + REQUEST)
    await asyncio.to_thread(eventually, lambda: limits.ended["slow"])
    writer.close()
    await answers(port, REQUEST.replace(b"Host: x", b"Host: x\r\nconnection: close"))
    assert caplog.text == ""


async def test_of_too_many_silent_connections_the_oldest_ends_and_who_comes_is_answered(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STALL", "HEAD_SECONDS"):
        monkeypatch.setattr(connections, name, 300.0)
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    try:
        got = await answers(port, REQUEST.replace(b"Host: x", b"Host: x\r\nconnection: close"))
        async with asyncio.timeout(60):
            first = await silent[0][0].read()
    finally:
        for _, writer in silent:
            writer.close()
    assert statuses(got) == [b"204"]
    assert statuses(first) == [b"503"]
    assert b"\r\nretry-after: 2\r\n" in first
