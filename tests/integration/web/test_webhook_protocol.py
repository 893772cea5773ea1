"""Which webhooks go past ASGI, and what a connection does with them, on a real uvicorn."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any

import pytest

from receiver.errors import Busy, RequestError, Unauthorized
from receiver.ingest.endpoint import send_error
from receiver.ingest.whole_webhooks import WebhookHead
from receiver.web import connections, http_protocol
from receiver.web.connections import Bounds, Connections
from receiver.web.webhook_protocol import WebhookProtocol
from tests.support.waiting import PATIENCE, eventually
from tests.support.web_server import Served, serve

HEAD = b"POST /webhooks/it HTTP/1.1\r\nHost: x\r\ncontent-length: %d\r\n%b\r\n"
# Seconds that a server which stops waits for what is under way.
STOP = 1


class Webhooks:
    """Takes webhooks, and answers with their bodies when it is told to."""

    def __init__(self) -> None:
        self.took: list[bytes] = []  # and not by ASGI
        self.answers_at_once = True
        self.takes = True
        self.refusal: RequestError | None = None
        self.waiting: list[Callable[[], None]] = []
        self.loop: Any = None

    def read_head(self, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> WebhookHead | None:
        length = int(dict(headers).get(b"content-length", b"0"))
        return WebhookHead("it", (), "", "", length) if target == b"/webhooks/it" else None

    def take(self, webhook: WebhookHead, body: bytes, reply: Any) -> Callable[[RequestError | None], None] | None:
        if not self.takes:
            return None
        self.took.append(body)
        lines = b"HTTP/1.1 202 Accepted\r\ncontent-length: %d\r\n" % len(body)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        def answer() -> None:
            if not reply.write_whole(lines, body):
                reply.answer_by_asgi(app)

        def end(error: RequestError | None) -> None:
            async def refuse(scope: Any, receive: Any, send: Any) -> None:
                await send_error(send, error or Busy("?"))

            reply.answer_by_asgi(refuse)

        self.loop = asyncio.get_running_loop()
        if self.refusal:
            self.loop.call_soon(end, self.refusal)
        elif self.answers_at_once:
            self.loop.call_soon(answer)
        else:
            self.waiting.append(answer)
        return end

    def answer_all(self) -> None:
        waiting, self.waiting = self.waiting, []
        for answer in waiting:
            self.loop.call_soon_threadsafe(answer)


@pytest.fixture
def webhooks() -> Webhooks:
    return Webhooks()


# What came by ASGI: the body, or how it ended.
BY_ASGI: list[bytes] = []
# The names of the headers of the last one.
HEADERS: list[bytes] = []


async def app(scope: Any, receive: Any, send: Any) -> None:
    HEADERS[:] = [name for name, _ in scope["headers"]]
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            BY_ASGI.append(b"gone")
            return
        body += message["body"]
        if not message["more_body"]:
            break
    BY_ASGI.append(body)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def served(webhooks: Webhooks) -> AsyncIterator[Served]:
    BY_ASGI.clear()
    made = partial(WebhookProtocol, webhooks=webhooks)
    options = http_protocol.options(
        Connections(Bounds(100, 50, 20)), made, lifespan="off", timeout_graceful_shutdown=STOP
    )
    async with serve(app, options) as served:
        yield served


def post(body: bytes, more: bytes = b"") -> bytes:
    return HEAD % (len(body), more) + body


async def talk(served: Served, *pieces: bytes, until: int) -> bytes:
    """Send pieces, each once the one before has been read, and return what comes until so many answers have."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        for number, piece in enumerate(pieces):
            writer.write(piece)
            if number + 1 < len(pieces):
                await asyncio.sleep(0.05)
        got = b""
        async with asyncio.timeout(PATIENCE):
            while got.count(b"HTTP/1.1 ") < until and (some := await reader.read(65536)):
                got += some
        return got
    finally:
        writer.close()


def statuses(got: bytes) -> list[bytes]:
    return [line.split()[1] for line in got.split(b"\r\n") if b"HTTP/1.1 " in line]


@pytest.mark.parametrize(
    "pieces", [(post(b"abc"),), (post(b""),), (HEAD % (3, b""), b"abc"), (post(b"")[:9], post(b"")[9:])]
)
async def test_a_webhook_whose_body_comes_in_one_piece_goes_past_asgi(
    served: Served, webhooks: Webhooks, pieces: tuple[bytes, ...]
) -> None:
    got = await talk(served, *pieces, until=1)
    assert statuses(got) == [b"202"]
    assert got.count(b"date: ") == 1
    assert webhooks.took == [b"".join(pieces).partition(b"\r\n\r\n")[2]]
    assert BY_ASGI == []


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD % (3, b""), b"a", b"bc"),
        (post(b"abc").replace(b"/it", b"/other"),),
        (post(b"abc").replace(b"HTTP/1.1", b"HTTP/1.0"),),
        (post(b"abc", b"Connection: close\r\n"),),
        (post(b"abc").replace(b"POST", b"PUT"),),
        (
            post(b"", b"Transfer-Encoding: chunked\r\n").replace(b"content-length: 0\r\n", b"")
            + b"3\r\nabc\r\n0\r\n\r\n",
        ),
    ],
    ids=["pieces", "elsewhere", "1.0", "close", "PUT", "chunked"],
)
async def test_what_is_not_plain_goes_by_asgi_as_if_nothing_had_been(
    served: Served, webhooks: Webhooks, pieces: tuple[bytes, ...]
) -> None:
    assert statuses(await talk(served, *pieces, until=1)) == [b"200"]
    assert (BY_ASGI, webhooks.took) == ([b"abc"], [])


async def test_who_wants_another_protocol_is_answered_in_this_one(served: Served, webhooks: Webhooks) -> None:
    upgrade = post(b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n")
    assert statuses(await talk(served, upgrade, until=1)) == [b"200"]
    assert (BY_ASGI, webhooks.took) == ([b""], [])


async def test_one_that_is_not_taken_goes_by_asgi(served: Served, webhooks: Webhooks) -> None:
    webhooks.takes = False
    assert statuses(await talk(served, post(b"abc") + post(b""), until=2)) == [b"200", b"200"]
    assert BY_ASGI == [b"abc", b""]


async def test_who_asks_whether_to_go_on_is_told_to(served: Served, webhooks: Webhooks) -> None:
    got = await talk(served, HEAD % (3, b"Expect: 100-continue\r\n"), b"abc", until=2)
    assert statuses(got) == [b"100", b"200"]
    assert webhooks.took == []


async def test_requests_of_one_connection_are_answered_in_their_order(served: Served, webhooks: Webhooks) -> None:
    # Given a webhook that is under way, and more behind it
    webhooks.answers_at_once = False
    other = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    talking = asyncio.create_task(talk(served, post(b"1") + other + post(b"2"), post(b"3"), until=4))
    await asyncio.to_thread(eventually, lambda: webhooks.took == [b"1"])
    await asyncio.sleep(0.1)
    assert not talking.done()
    # When it is answered, then the others are, each once
    webhooks.answer_all()
    assert statuses(await talking) == [b"202", b"200", b"200", b"200"]
    # And the next one that comes alone goes past ASGI again
    webhooks.answers_at_once = True
    assert statuses(await talk(served, post(b"4"), until=1)) == [b"202"]
    assert (webhooks.took, BY_ASGI) == ([b"1", b"4"], [b"", b"2", b"3"])


async def test_a_connection_goes_on_after_a_webhook_was_refused(served: Served, webhooks: Webhooks) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)

    async def answer() -> bytes:
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        return head.split()[1]

    # Given a webhook that is refused, and another that comes with it, or once the answer is there
    for _ in range(2):
        webhooks.refusal = Unauthorized("the signature fits none of the source's secrets")
        writer.write(post(b"1") + post(b"2"))
        assert [await answer(), await answer()] == [b"401", b"200"]
        writer.write(post(b"3"))
        assert await answer() == b"401"
        # When the next one is taken, then it is answered
        webhooks.refusal = None
        writer.write(post(b"4"))
        assert await answer() == b"202"
    writer.close()
    assert webhooks.took == [b"1", b"3", b"4"] * 2


async def test_wherever_requests_are_cut_they_are_answered_alike(served: Served, webhooks: Webhooks) -> None:
    # Given a webhook, what goes by ASGI, and another webhook: in two pieces, cut at each byte in turn
    sent = post(b"abc") + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + post(b"")
    wanted = (b"abc", b"", b"")
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for cut in range(1, len(sent)):
        writer.write(sent[:cut])
        await asyncio.sleep(0.002)
        writer.write(sent[cut:])
        # Then there is one answer to each, in their order, and each was taken once, by one way or the other
        async with asyncio.timeout(PATIENCE):
            heads = [await reader.readuntil(b"\r\n\r\n")]
            if heads[0].startswith(b"HTTP/1.1 202"):
                assert await reader.readexactly(3) == b"abc"
            heads += [await reader.readuntil(b"\r\n\r\n") for _ in range(2)]
        assert heads[1].startswith(b"HTTP/1.1 200"), cut
        assert sorted([*webhooks.took, *BY_ASGI]) == sorted(wanted), cut
        webhooks.took.clear()
        BY_ASGI.clear()
    writer.close()


async def test_a_webhook_with_what_is_no_http_behind_it_is_answered_first(served: Served, webhooks: Webhooks) -> None:
    # Given a webhook whose commit is under way, and in the same piece what is no request
    webhooks.answers_at_once = False
    talking = asyncio.create_task(talk(served, post(b"1") + b"no HTTP\r\n\r\n", until=2))
    await asyncio.to_thread(eventually, lambda: webhooks.took == [b"1"])
    # When it is committed, then it is answered, and after it the other is refused
    webhooks.answer_all()
    assert statuses(await talking) == [b"202", b"400"]


async def test_fields_behind_a_chunked_body_are_no_headers(served: Served, webhooks: Webhooks) -> None:
    trailed = post(b"", b"Transfer-Encoding: chunked\r\n").replace(b"content-length: 0\r\n", b"")
    trailed += b"3\r\nabc\r\n0\r\nx-behind: it\r\n\r\n"
    assert statuses(await talk(served, trailed, until=1)) == [b"200"]
    assert BY_ASGI == [b"abc"]
    assert HEADERS == [b"host", b"transfer-encoding"]


async def test_many_on_one_connection_one_after_the_other(served: Served, webhooks: Webhooks) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for number in range(20):
        writer.write(post(b"%02d" % number))
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 202")
            assert await reader.readexactly(2) == b"%02d" % number
    writer.close()
    assert len(webhooks.took) == 20


async def test_a_connection_that_waits_for_its_next_request_keeps_nothing_of_the_last(
    served: Served, webhooks: Webhooks
) -> None:
    # Given a connection that stays open after its webhook was answered
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(post(b"x" * 5000))
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"\r\n\r\n")
    # Then nobody but the test has its body, nor the request what would have ended it
    await asyncio.to_thread(eventually, lambda: gc.get_referrers(webhooks.took[0]) == [webhooks.took])
    name = "Webhooks.take.<locals>.end"
    functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
    assert [each for each in functions if each.__qualname__ == name] == []
    writer.close()


async def test_a_body_counts_for_no_head(served: Served, webhooks: Webhooks) -> None:
    large = b"x" * (http_protocol.MAX_HEAD + 5000)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for _ in range(3):
        for piece in (HEAD % (len(large), b""), large):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith((b"HTTP/1.1 202", b"HTTP/1.1 200"))
            if webhooks.took:
                await reader.readexactly(len(webhooks.took.pop()))
    writer.close()


async def test_what_was_refused_is_not_taken_when_its_body_comes(served: Served, webhooks: Webhooks) -> None:
    many = HEAD % (3, b"X: y\r\n" * (http_protocol.MAX_HEADERS + 1))
    assert statuses(await talk(served, many, b"abc", until=1)) == [b"431"]
    await asyncio.to_thread(eventually, lambda: BY_ASGI == [b"gone"])
    assert webhooks.took == []


async def test_who_ends_its_side_still_gets_the_answer_which_says_that_it_is_the_last(
    served: Served, webhooks: Webhooks
) -> None:
    webhooks.answers_at_once = False
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(post(b"abc"))
    writer.write_eof()
    await asyncio.to_thread(eventually, lambda: webhooks.took == [b"abc"])
    await asyncio.to_thread(
        eventually, lambda: all(each._half_closed for each in served.server.server_state.connections)
    )
    webhooks.answer_all()
    async with asyncio.timeout(PATIENCE):
        got = await reader.read()
    assert statuses(got) == [b"202"]
    assert b"connection: close\r\n" in got
    writer.close()


async def test_one_who_hangs_up_is_no_trouble(
    served: Served, webhooks: Webhooks, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HALF_CLOSED", 0.1)
    webhooks.answers_at_once = False
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(post(b"abc"))
    await asyncio.to_thread(eventually, lambda: webhooks.took == [b"abc"])
    writer.transport.abort()
    await asyncio.to_thread(eventually, lambda: not served.server.server_state.connections)
    webhooks.answer_all()
    await asyncio.to_thread(eventually, lambda: not served.server.server_state.tasks)
    webhooks.answers_at_once = True
    assert statuses(await talk(served, post(b"d"), until=1)) == [b"202"]
    assert caplog.records == []


@pytest.mark.parametrize("before", [b"", post(b"abc")], ids=["at once", "after a webhook"])
async def test_a_head_that_does_not_come_to_its_end_is_408(
    served: Served, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALL", 0.1)
    pieces = [each for each in (before, post(b"abc")[:30]) if each]
    assert statuses(await talk(served, *pieces, until=len(pieces)))[-1:] == [b"408"]


async def test_a_body_that_does_not_come_is_408_and_the_application_hears_of_it(
    served: Served, webhooks: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALL", 0.1)
    assert statuses(await talk(served, HEAD % (3, b""), until=1)) == [b"408"]
    await asyncio.to_thread(eventually, lambda: BY_ASGI == [b"gone"])
    # And one whose client is gone before the body
    _, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(HEAD % (3, b""))
    await asyncio.to_thread(eventually, lambda: any(each.cycle for each in served.server.server_state.connections))
    writer.transport.abort()
    await asyncio.to_thread(eventually, lambda: BY_ASGI == [b"gone", b"gone"])
    assert webhooks.took == []


async def test_a_server_that_stops_lets_the_answer_out_and_says_that_it_is_the_last(
    served: Served, webhooks: Webhooks
) -> None:
    webhooks.answers_at_once = False
    talking = asyncio.create_task(talk(served, post(b"abc"), until=1))
    await asyncio.to_thread(eventually, lambda: webhooks.took == [b"abc"])
    served.server.should_exit = True
    await asyncio.to_thread(eventually, lambda: not served.server.servers or not served.server.servers[0].is_serving())
    await asyncio.sleep(0.2)
    assert not served.serving.done()
    webhooks.answer_all()
    got = await talking
    assert statuses(got) == [b"202"]
    assert b"connection: close\r\n" in got
    await served.serving


async def test_what_is_not_whole_when_the_server_stops_is_the_last_of_its_connection(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(HEAD % (3, b""))
    await asyncio.to_thread(eventually, lambda: any(each.cycle for each in served.server.server_state.connections))
    served.server.should_exit = True
    await asyncio.to_thread(
        eventually, lambda: all(not each.cycle.keep_alive for each in served.server.server_state.connections)
    )
    for piece in (b"a", b"bc"):
        writer.write(piece)
        await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE):
        got = await reader.read()
    assert statuses(got) == [b"200"]
    assert b"connection: close\r\n" in got
    writer.close()


async def test_a_server_that_has_waited_long_enough_ends_what_is_under_way(served: Served, webhooks: Webhooks) -> None:
    webhooks.answers_at_once = False
    talking = asyncio.create_task(talk(served, post(b"abc"), until=1))
    await asyncio.to_thread(eventually, lambda: webhooks.took == [b"abc"])
    served.server.should_exit = True
    assert statuses(await talking) == [b"503"]
