"""The HTTP protocol of a listener that takes webhooks: one that is whole at once goes past ASGI.

What a connection does with it is what it does with others: one request at a time, limits, an orderly stop. A request
that is not plain begins as others do, however much of it is here by then. receiver/ingest/whole_webhooks.py says what
is plain, and what it costs else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, Protocol

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from receiver.errors import Busy, RequestError
from receiver.ingest.whole_webhooks import WebhookHead, WebhookReply
from receiver.web.http_protocol import HTTPProtocol

_PREFIX: Final = b"/webhooks/"

Abort = Callable[[RequestError | None], None]


class Webhooks(Protocol):
    """What takes webhooks: receiver.ingest.whole_webhooks.WholeWebhooks."""

    def read_head(self, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> WebhookHead | None:
        """Return what the head of a POST says; None where its request is to go by ASGI."""

    def take(self, head: WebhookHead, body: bytes, reply: WebhookReply) -> Abort | None:
        """Take a webhook that is whole. None: it is to go by ASGI. Else returns what ends it early."""


class WebhookRequest:
    """A webhook whose head is here. To uvicorn it is both a request under way and the task of one."""

    __slots__ = (
        "_abort",
        "_protocol",
        "_target",
        "body",
        "disconnected",
        "head",
        "keep_alive",
        "response_complete",
        "response_started",
    )

    scope: ClassVar[Mapping[str, str]] = {"method": "POST"}
    message_event: ClassVar[asyncio.Event] = asyncio.Event()  # nobody waits for it

    def __init__(self, protocol: WebhookProtocol, head: WebhookHead) -> None:
        self._protocol = protocol
        self._target = protocol.url
        self._abort: Abort | None = None
        self.head = head
        self.body = b""
        self.keep_alive = True
        self.disconnected = self.response_started = self.response_complete = False

    def take(self, webhooks: Webhooks) -> bool:
        """Have it taken, now that it is whole. False: it is to go by ASGI."""
        tasks: set[Any] = self._protocol.tasks
        tasks.add(self)
        self._abort = webhooks.take(self.head, self.body, self)
        if self._abort is None:
            tasks.discard(self)
            return False
        self.body = b""  # a connection keeps its newest request until the next one comes, which may be long
        return True

    def cancel(self, msg: object = None) -> None:  # noqa: ARG002 - as a task's
        """End it, since the server stops and it has had its time. Its event may be committed all the same."""
        if self._abort is not None:
            self._protocol.loop.call_soon(self._abort, Busy("the receiver stops"))

    def write_whole(self, lines: bytes, body: bytes) -> bool:
        """Write a whole answer. False when it can't be written now: call `answer_by_asgi` then."""
        self._leave()
        return self._protocol.answer_whole(self, lines, body)

    def answer_by_asgi(self, app: Any) -> None:
        """Have an ASGI application answer."""
        self._leave()
        self._protocol.answer_by(self, self._target.decode(), app)

    def _leave(self) -> None:
        """End as a task. `_abort` refers to the request in turn: only the garbage collector would free the two."""
        self._protocol.tasks.discard(self)
        self._abort = None


class WebhookProtocol(HTTPProtocol):
    """One connection. `webhooks`: what takes them."""

    _incoming: WebhookRequest | None = None  # its head is here, its body is not
    _is_asgi = True  # whether the request that comes in has its scope

    def __init__(self, *arguments: Any, webhooks: Webhooks, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._webhooks = webhooks

    def on_message_begin(self) -> None:
        """Begin a head. What ASGI wants of it waits until it is known to be wanted."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._is_asgi = True
            super().on_message_begin()
            return
        self._is_asgi, self._in_head = False, True
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        """End the head, and begin the request unless it may be taken once it is whole."""
        if not self._is_asgi and self.url.startswith(_PREFIX) and not self.expect_100_continue:
            parser = self.parser
            if (
                parser.get_method() == b"POST"
                and parser.get_http_version() == "1.1"
                and parser.should_keep_alive()
                and not parser.should_upgrade()
            ):
                head = self._webhooks.read_head(self.url, self.headers)
                if head is not None:
                    self._head_bytes = 0
                    self._in_head, self._in_body = False, True
                    self.cycle = self._running = self._incoming = WebhookRequest(self, head)  # type: ignore[assignment]
                    return
        self._begin_asgi()

    def _begin_asgi(self) -> None:
        if not self._is_asgi:
            self._is_asgi = True
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.headers, self.expect_100_continue = url, headers, expects
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass on a piece of the body."""
        incoming = self._incoming
        if incoming is not None:
            if len(body) == incoming.head.length:
                self._head_bytes = 0
                incoming.body = body
                return
            self._pass_to_asgi()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body."""
        incoming = self._incoming
        if incoming is not None:
            if incoming.take(self._webhooks):
                self._incoming, self._in_body = None, False
                return
            self._pass_to_asgi()
            super().on_body(incoming.body)
        super().on_message_complete()

    def _pass_to_asgi(self) -> None:
        """Let the request whose head is here, if there is one, go by ASGI."""
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            self.cycle = None  # type: ignore[assignment]
            self._begin_asgi()
            self.cycle.keep_alive &= incoming.keep_alive

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._pass_to_asgi()
        super().connection_lost(exc)

    def answer_by(self, request: WebhookRequest, path: str, app: Any) -> None:
        """Have an ASGI application answer what was taken."""
        cycle = RequestResponseCycle(
            scope={"type": "http", "method": "POST", "path": path},  # type: ignore[typeddict-item]
            transport=self._answer_transport,  # type: ignore[arg-type]
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=request.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.disconnected, cycle.more_body = request.disconnected, False
        newest: Any = self.cycle
        if newest is request:
            self.cycle = cycle
        self._start_asgi_task(cycle, app)
