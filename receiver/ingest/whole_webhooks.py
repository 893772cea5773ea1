"""Webhooks whose body comes in one piece: authenticated, committed and answered without ASGI.

What ASGI needs for a request (a scope, a task, messages, an event) and what waits for a commit (a future, a turn of the
event loop) cost as much as all that is done with a small webhook. So our own server asks here first. All others (of an
unknown source, too large, in pieces, one of many large ones) go to `Ingest` by ASGI as if nothing had been.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from receiver.domain.event import Event
from receiver.errors import Busy, RequestError, Unauthorized
from receiver.ingest.endpoint import (
    ACCEPTED_LINES,
    CHECKED,
    LARGE,
    MANY,
    OFF_LOOP,
    Ingest,
    Receive,
    Send,
    accepted_body,
    read_headers,
    send_accepted,
)
from receiver.ingest.large_bodies import authenticated_id

# A path without escapes, and no query.
_TARGET: Final = re.compile(rb"/webhooks/([\w.-]+)(?:/([A-Za-z0-9_-]{1,128}))?", re.ASCII)

log = logging.getLogger("runhook.ingest")

App = Callable[[Any, Receive, Send], Awaitable[None]]


class WebhookReply(Protocol):
    """How a request is answered."""

    def write_whole(self, lines: bytes, body: bytes) -> bool:
        """Write a whole answer: the lines of its head, without the empty one, and its body. False when it can't be
        written now: nothing is written then."""

    def answer_by_asgi(self, app: App) -> None:
        """Have an ASGI application answer."""


class WebhookHead(NamedTuple):
    """The head of a webhook. `length`: bytes of its body."""

    source: str
    secrets: Sequence[str]
    submission_id: str
    signature: str
    length: int


class WholeWebhooks(Ingest):
    """Ingest, by either way."""

    def read_head(self, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> WebhookHead | None:
        """Return the head of a POST; None where the request is to go by ASGI."""
        plain = _TARGET.fullmatch(target)
        if plain is None:
            return None
        source, submission_id = plain[1].decode(), (plain[2] or b"").decode()
        secrets = self._sources.get(source)
        if secrets is None:
            return None
        try:
            length, signature = read_headers(headers)
        except RequestError:
            return None
        if length > min(self._max_body, OFF_LOOP):
            return None
        return WebhookHead(source, secrets, submission_id, signature, length)

    def take(self, head: WebhookHead, body: bytes, reply: WebhookReply) -> Callable[[RequestError | None], None] | None:
        """Take a webhook. None, and nothing is done, where it is to go by ASGI; else a function that ends it with an
        error, unless it was answered before."""
        size = len(body)
        if size > LARGE and self._bodies.bytes >= MANY:
            return None
        answering = _Answering(self, size, reply)
        self._bodies.take(size)
        try:
            self._begin(head, body, answering)
        except RequestError as error:
            answering(error)
        except Exception:
            log.exception("ingest.bug")
            answering(Busy("the event could not be kept"))
        return answering

    def _begin(self, head: WebhookHead, body: bytes, answering: _Answering) -> None:
        source, secrets, submission_id, signature, _ = head
        at = time.time()
        event_id = authenticated_id(source, secrets, signature, body)
        if not event_id:
            self._quarantine.offer(source, signature, body, submission_id, at)
            raise Unauthorized("the signature fits none of the source's secrets")
        answering.event_id = event_id
        self._group_commit.commit_then(Event(event_id, source, body, at, "webhook", submission_id), answering)
        if len(body) <= CHECKED:
            self._check_shape(event_id, body)  # while the commit is under way

    def end(self, size: int, error: RequestError | None, event_id: str, started: float, reply: WebhookReply) -> None:
        """Answer."""
        self._bodies.give(size)
        if error is not None:
            refusal = error

            async def refuse(scope: Any, _: Receive, send: Send) -> None:
                await self._refuse(send, refusal, scope["path"])

            reply.answer_by_asgi(refuse)
            return
        self._metrics.requests["accepted"] += 1
        self._metrics.request_seconds.observe(time.perf_counter() - started)
        body = accepted_body(event_id)
        if not reply.write_whole(ACCEPTED_LINES, body):

            async def accept(_: Any, __: Receive, send: Send) -> None:
                await send_accepted(send, body)

            reply.answer_by_asgi(accept)


class _Answering:
    """Answers a webhook, once, when it is told how its commit ended."""

    __slots__ = ("_ingest", "_reply", "_size", "_started", "event_id")

    def __init__(self, ingest: WholeWebhooks, size: int, reply: WebhookReply) -> None:
        self._ingest: WholeWebhooks | None = ingest
        self._size = size
        self._reply = reply
        self._started = time.perf_counter()
        self.event_id = ""

    def __call__(self, error: RequestError | None) -> None:
        """Answer 202, or `error`, unless it was answered."""
        ingest, self._ingest = self._ingest, None
        if ingest is not None:
            ingest.end(self._size, error, self.event_id, self._started, self._reply)
