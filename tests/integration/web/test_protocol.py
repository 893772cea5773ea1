"""Limits on requests that are incomplete, pipelined or invalid, on a real uvicorn with Runhook's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from receiver.web.component import ABORT
from receiver.web.protocol import Listening, Seconds, options
from tests.support.waiting import PATIENCE, eventually
from tests.support.web_server import Served, serve

BOUND = 0.4
# Bytes of a response in one piece, more than all buffers take.
WHOLE = 16 << 20
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\ncontent-length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\n"


class App:
    """Answers 204 to a complete request. `bodies` and `fields`: what it received; `gone`: clients that hung up."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.fields: list[bytes] = []
        self.gone = 0
        self.may_answer = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, status = scope["path"], 204
        self.fields = [name for name, _ in scope["headers"]]
        if path == "/refused":
            status = 401
        else:
            body = b""
            while (message := await receive())["type"] == "http.request":
                body += message["body"]
                if not message["more_body"]:
                    break
            else:
                self.gone += 1
                return
            self.bodies.append(body)
        while path == "/slow" and not self.may_answer:  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)
        if path in ("/large", "/whole"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100 if path == "/large" else 0):
                await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            await send({"type": "http.response.body", "body": bytes(WHOLE) if path == "/whole" else b""})
            return
        length = b"9" if path == "/broken" else b"0"
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", length)]})
        if path == "/broken":
            scope["extensions"][ABORT]()
            return
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def listener() -> Listening:
    return Listening(10, seconds=Seconds(BOUND, BOUND, BOUND, BOUND, 0.02))


@pytest.fixture
async def served(app: App, listener: Listening) -> AsyncIterator[Served]:
    async with serve(app, options(listener, lifespan="off", timeout_graceful_shutdown=1)) as served:
        yield served


@pytest.fixture
def port(served: Served) -> int:
    return served.port


@pytest.fixture
def patient(served: Served, listener: Listening) -> None:
    """A busy machine is not too slow."""
    listener.seconds = listener.seconds._replace(head=300.0, body=300.0, drain=300.0)


async def talk(port: int, *pieces: bytes, pause: float = 0.0, ends: bool = False) -> bytes:
    """Return all that comes back until the server closes. No piece is sent once it has refused something."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""

    async def read() -> None:
        nonlocal got
        with contextlib.suppress(ConnectionResetError):
            while piece := await reader.read(65536):
                got += piece

    try:
        reading = asyncio.create_task(read())
        for piece in pieces:
            if b"HTTP/1.1 4" in got:
                break
            writer.write(piece)
            await asyncio.sleep(pause)
        if ends:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            await reading
        return got
    finally:
        writer.close()


async def talk_blindly(port: int, sent: bytes) -> bytes:
    """Return what a client gets that reads nothing before it has sent everything."""

    def run() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(sent)
            got = b""
            while piece := client.recv(65536):
                got += piece
            return got

    return await asyncio.to_thread(run)


def statuses(got: bytes) -> list[bytes]:
    return [line.split()[1] for line in got.split(b"\r\n") if line.startswith(b"HTTP/")]


# --- Time


HALF = b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("pieces", "pause", "expected"),
    [
        ([b""], 0.0, [b"408"]),
        ([b"\r\n"], 0.0, [b"408"]),
        ([HALF], 0.0, [b"408"]),
        ([HALF, *[b"X: y\r\n"] * 30], BOUND / 6, [b"408"]),
        ([REQUEST, HALF], 0.05, [b"204", b"408"]),
        ([REQUEST + HALF], 0.0, [b"204", b"408"]),
        ([REQUEST, b"\r\n"], 0.05, [b"204"]),
        ([POST % 9 + b"x"], 0.0, [b"408"]),
        ([(POST % 1000).replace(b"/ ", b"/refused "), *[b"x"] * 30], BOUND / 6, [b"401"]),
    ],
    ids=["silence", "blank line", "half a head", "trickling head", "second head", "second head with the first",
         "blank line after a request", "half a body", "rest of a refused body"],
)  # fmt: skip
async def test_what_does_not_come_in_time_ends_its_connection(
    port: int, app: App, listener: Listening, pieces: list[bytes], pause: float, expected: list[bytes]
) -> None:
    got = await talk(port, *pieces, pause=pause)

    assert statuses(got) == expected
    if expected == [b"408"]:
        assert b'{"error":{"code":"timeout"' in got
        assert listener.ended["slow"] == 1
    if pieces[0].startswith(b"POST / "):
        assert b"the body of the request did not come in time" in got
        await asyncio.to_thread(eventually, lambda: app.gone == 1)


async def test_a_slow_response_is_no_reason_to_close(port: int, app: App) -> None:
    app.may_answer = False
    talking = asyncio.create_task(talk(port, LAST.replace(b"/ ", b"/slow ")))
    await asyncio.sleep(3 * BOUND)
    app.may_answer = True
    assert statuses(await talking) == [b"204"]


# --- Responses that the client does not read


async def test_an_unread_response_is_aborted(port: int, listener: Listening) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(REQUEST.replace(b"/ ", b"/large ") + REQUEST)
    await asyncio.to_thread(eventually, lambda: listener.ended["slow"])
    received, end = 0, b""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionResetError):
            while piece := await reader.read(1 << 20):
                received, end = received + len(piece), piece[-10:]
    writer.close()
    assert received < 100 << 20
    assert not end.endswith(b"\r\n0\r\n\r\n")


async def test_a_response_that_is_read_slowly_is_complete(port: int, listener: Listening) -> None:
    bound = 1.5  # a busy machine may stand still for a while
    listener.seconds = listener.seconds._replace(unread=bound)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    writer.write(REQUEST.replace(b"/ ", b"/whole "))
    began, received = time.monotonic(), 0
    async with asyncio.timeout(PATIENCE):
        while received < WHOLE and (piece := await reader.read(1 << 18)):
            received += len(piece)
            await asyncio.sleep(bound / 20)
    writer.close()
    assert received >= WHOLE
    assert time.monotonic() - began > 2 * bound


async def test_an_aborted_response_is_seen_as_broken(port: int, caplog: pytest.LogCaptureFixture) -> None:
    got = await talk(port, REQUEST.replace(b"/ ", b"/broken ") + REQUEST)
    assert b"content-length: 0" not in got  # neither the rest of the first nor a second response
    assert caplog.text == ""


# --- Size


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["incomplete", "complete"])
@pytest.mark.parametrize(
    "fields", [b"a:b\r\n" * 201, b"a: " + b"b" * (70 << 10) + b"\r\n", b"a" * (900 << 10)], ids=["many", "long", "huge"]
)
async def test_a_head_that_is_too_large_is_refused(port: int, patient: None, fields: bytes, end: bytes) -> None:
    assert statuses(await talk(port, REQUEST[:-2] + fields + end)) == [b"431"]


async def test_fields_behind_a_body_end_at_a_bound_and_are_not_headers(port: int, app: App, patient: None) -> None:
    trailed = CHUNKED + b"3\r\nabc\r\n0\r\nx-behind: it\r\n"
    assert statuses(await talk(port, trailed + b"\r\n" + LAST)) == [b"204", b"204"]
    assert (app.bodies[0], app.fields) == (b"abc", [b"host", b"connection"])
    assert statuses(await talk(port, trailed + b"a" * (200 << 10))) == [b"431"]


async def test_a_body_is_not_counted_as_head(port: int, app: App, patient: None) -> None:
    large = bytes(300 << 10)
    assert statuses(await talk(port, POST % len(large) + large, POST % 3, b"abc" + LAST, pause=0.05)) == [b"204"] * 3
    assert [len(body) for body in app.bodies] == [len(large), 3, 0]


async def test_a_client_that_sends_first_sees_its_refusal(port: int, patient: None) -> None:
    assert statuses(await talk_blindly(port, REQUEST[:-2] + b"a: b\r\n" * (300 << 10))) == [b"431"]
    assert statuses(await talk_blindly(port, b"not HTTP\r\n\r\n" + bytes(2 << 20))) == [b"400"]


async def test_no_client_is_drained_for_ever(port: int, patient: None) -> None:
    with pytest.raises(ConnectionError):
        await talk_blindly(port, b"not HTTP\r\n\r\n" + bytes(64 << 20))


# --- Pipelining, and what is not HTTP


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (b"not HTTP\r\n\r\n", b"400"),
        (REQUEST[:-2] + b"a:b\r\n" * 300 + b"\r\n", b"431"),
        (REQUEST.replace(b"/ ", b"/\xff ", 1), b"400"),
        (CHUNKED + b"no length\r\n", b"400"),
        (REQUEST.replace(b"Host: x", b"content-length: 1\r\ntransfer-encoding: chunked"), b"400"),
        (REQUEST.replace(b"Host: x", b"content-length: 1\r\ncontent-length: 2"), b"400"),
    ],
    ids=["line", "headers", "target", "body", "two framings", "two lengths"],
)
async def test_complete_requests_are_answered_before_a_refusal(
    port: int, app: App, patient: None, broken: bytes, status: bytes
) -> None:
    # Given two complete requests, the first of which takes long, and an invalid one in the same piece
    app.may_answer = False
    talking = asyncio.create_task(talk(port, (POST % 0).replace(b"/ ", b"/slow ") + POST % 0 + broken, REQUEST))
    await asyncio.to_thread(eventually, lambda: app.bodies)
    app.may_answer = True
    # Then each gets its response in turn, in Runhook's JSON shape, and what follows gets none
    got = await talking
    assert statuses(got) == [b"204", b"204", status]
    assert got.endswith(b'"}}')


async def test_at_most_sixteen_requests_wait_and_each_is_answered(port: int, app: App, patient: None) -> None:
    assert statuses(await talk(port, REQUEST * 16 + LAST)) == [b"204"] * 17
    assert statuses(await talk(port, REQUEST * 5000)) == [b"204"] * 17 + [b"400"]


async def test_requests_are_answered_alike_wherever_they_are_cut(port: int, app: App, patient: None) -> None:
    sent = POST % 3 + b"abc" + REQUEST + POST % 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for cut in range(1, len(sent)):
        writer.write(sent[:cut])
        await asyncio.sleep(0.001)
        writer.write(sent[cut:])
        async with asyncio.timeout(PATIENCE):
            for _ in range(3):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        assert app.bodies == [b"abc", b"", b""], cut
        app.bodies.clear()
    writer.close()


async def test_upgrades_and_100_continue_are_answered(port: int, app: App, patient: None) -> None:
    upgrade = LAST.replace(b"Connection: close", b"Connection: upgrade, close\r\nUpgrade: h2c")
    assert statuses(await talk(port, upgrade)) == [b"204"]
    expecting = (POST % 3).replace(b"Host: x", b"Host: x\r\nExpect: 100-continue\r\nConnection: close")
    assert statuses(await talk(port, expecting, b"abc", pause=0.05)) == [b"100", b"204"]


async def test_each_response_has_a_date_and_no_server_name(port: int, patient: None) -> None:
    got = await talk(port, REQUEST, b"not HTTP\r\n\r\n", pause=0.05)
    dates = [line.partition(b": ")[2].decode() for line in got.split(b"\r\n") if line.startswith(b"date: ")]
    assert len(dates) == 2
    assert all(abs(parsedate_to_datetime(date).timestamp() - time.time()) < 60 for date in dates)
    assert b"server:" not in got


# --- Number


async def test_connections_over_the_limit_get_503_with_retry_after(
    port: int, listener: Listening, patient: None
) -> None:
    open_ones = [await asyncio.open_connection("127.0.0.1", port) for _ in range(listener.limit)]
    await asyncio.to_thread(eventually, lambda: listener.gauges() == {"open": 10, "head": 10, "body": 0})
    got = await talk(port, REQUEST)
    for _, writer in open_ones:
        writer.close()
        await writer.wait_closed()
    await asyncio.to_thread(eventually, lambda: not listener.peers)
    assert statuses(got) == [b"503"]
    assert b"\r\nretry-after: 2\r\n" in got
    assert statuses(await talk(port, LAST)) == [b"204"]
    assert listener.ended == {"slow": 0, "too_many": 1, "idle": 0}


async def test_idle_connections_give_way_before_the_limit(
    port: int, app: App, listener: Listening, patient: None
) -> None:
    # Given as many connections as may be, which are idle but for the first one
    app.may_answer = False
    busy = asyncio.create_task(talk(port, LAST.replace(b"/ ", b"/slow ")))
    await asyncio.to_thread(eventually, lambda: app.bodies)
    idle = []
    for _ in range(listener.limit - 1):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        idle.append((reader, writer))
    # Then the oldest idle ones are closed, so that others find a place
    async with asyncio.timeout(PATIENCE):
        assert await idle[0][0].read() == b""
    assert statuses(await talk(port, LAST)) == [b"204"]
    # And neither the busy one nor the last ones are
    app.may_answer = True
    assert statuses(await busy) == [b"204"]
    reader, writer = idle[-1]
    writer.write(LAST)
    async with asyncio.timeout(PATIENCE):
        assert statuses(await reader.read()) == [b"204"]
    assert 0 < listener.ended["idle"] < 5
    for _, writer in idle:
        writer.close()


# --- Stop


async def test_stopping_server_ends_connections_with_their_response(served: Served, app: App) -> None:
    app.may_answer = False
    talking = asyncio.create_task(talk(served.port, REQUEST.replace(b"/ ", b"/slow ")))
    await asyncio.to_thread(eventually, lambda: app.bodies)
    served.server.should_exit = True
    await asyncio.to_thread(
        eventually, lambda: all(not peer.cycle.keep_alive for peer in served.server.server_state.connections)
    )
    app.may_answer = True
    got = await talking
    assert statuses(got) == [b"204"]
    assert b"connection: close\r\n" in got
    await served.serving


@pytest.mark.parametrize("target", [b"h2c", b"websocket"])
@pytest.mark.parametrize("pieces", [1, 2, 5])
async def test_body_is_read_though_client_asks_for_upgrade(app: App, port: int, target: bytes, pieces: int) -> None:
    # Given what Java's client and many nginx configs add
    asks = b"Connection: Upgrade\r\nUpgrade: " + target + b"\r\n\r\n"

    # When bodies of both forms come, and a request without one, over one connection
    requests = [POST[:-2] % 5 + asks + b"first", CHUNKED[:-2] + asks + b"6\r\nsecond\r\n0\r\n\r\n"]
    data = b"".join([*requests, REQUEST[:-2] + asks, POST % 4 + b"last", LAST])
    size = -(-len(data) // pieces)
    got = await talk(port, *[data[at : at + size] for at in range(0, len(data), size)])

    # Then each is read whole
    assert got.count(b"HTTP/1.1 204") == 5, got
    assert app.bodies == [b"first", b"second", b"", b"last", b""]


async def test_new_connection_may_send_its_request_during_a_stop(app: App) -> None:
    # Given a connection that has sent nothing, to a server that begins to stop
    listener = Listening(10, seconds=Seconds(first=PATIENCE))
    async with serve(app, options(listener, lifespan="off")) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        while not listener.peers:  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.01)
        served.server.should_exit = True
        while True:
            try:
                (await asyncio.open_connection("127.0.0.1", served.port))[1].close()
            except ConnectionRefusedError:
                break
            await asyncio.sleep(0.01)
        # When it sends a request, then it gets the response
        writer.write(LAST)
        assert (await reader.read()).startswith(b"HTTP/1.1 204")
        writer.close()
        assert app.bodies == [b""]
