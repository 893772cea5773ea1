"""POST /webhooks/{source}[/{submission_id}]: authenticate the request, commit its event, answer 202.

The order is fixed: source and announced length before a byte of the body is read, the limit again while it comes in,
the signature over the raw bytes, then the commit. The response to an authentic body never depends on its shape, so
nothing is parsed here.

It is an ASGI application behind a Starlette route; a Starlette endpoint function would cost half as much again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from starlette.types import Message, Receive, Scope, Send

from receiver.domain.event import Event, event_id
from receiver.domain.run import scan_run_id
from receiver.domain.signature import HEADER, verify
from receiver.errors import Busy, NotAllowed, NotFound, RequestError, TimedOut, TooLarge, Unauthorized
from receiver.ingest.held_bodies import HeldBodies, HeldBody, NoRoom
from receiver.ingest.poll_hints import PollHintWriter
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.receiver import ReceiverMetrics

PREFIX: Final = "/webhooks/"
# Bytes of a body above which a thread hashes it, since all other requests would wait meanwhile.
OFF_LOOP: Final = 256 << 10
# Seconds in which a body must come in, as many as Skyvern gives a whole delivery.
BODY_TIMEOUT: Final = 30.0
# Bytes at the beginning of a body that is too large in which its run's id is sought, and seconds to wait for them.
BEGINNING: Final = 4096
BEGINNING_TIMEOUT: Final = 2.0
# What is still read of a body after its refusal, so that a sender that sends everything first sees the response.
DRAIN_BYTES: Final = 64 << 20

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SIGNATURE = HEADER.encode()
_JSON = (b"content-type", b"application/json")
_ACCEPTED: Final[dict[str, Any]] = {
    "type": "http.response.start",
    "status": 202,
    "headers": [_JSON, (b"content-length", b"51")],  # {"event_id":"evt_…"}, an id of 36
}

log = logging.getLogger("runhook.ingest")


class _Disconnected(Exception):
    """The client hung up before its body was complete."""


_OUTCOMES: Final[dict[type[RequestError], str]] = {
    Unauthorized: "bad_signature",
    NotFound: "unknown_source",
    TooLarge: "too_large",
    TimedOut: "timed_out",
    Busy: "unavailable",
}


class Ingest:
    """The ASGI application. `sources`: secrets by source name. `max_body`: bytes.

    `commit`: GroupCommit.commit. `quarantine`: QuarantineWriter.offer.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[str]],
        max_body: int,
        commit: Callable[[Event], Awaitable[None]],
        quarantine: Callable[[str, str, bytes, str, float], None],
        poll_hints: PollHintWriter,
        metrics: ReceiverMetrics,
        bodies: HeldBodies,
        body_timeout: float = BODY_TIMEOUT,
    ) -> None:
        self._sources = sources
        self._max_body = max_body
        self._commit = commit
        self._quarantine = quarantine
        self._poll_hints = poll_hints
        self._metrics = metrics
        self._bodies = bodies
        self._body_timeout = body_timeout
        self._log_lines = TokenBucket(rate=1, burst=20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        try:
            event_id = await self._ingest(scope, receive)
        except RequestError as error:
            if isinstance(error, NotFound) and _read_headers(scope["headers"])[1]:
                self._metrics.count_wrong_path(scope["path"])
            await self._refuse(send, error, scope["path"], receive)
        except _Disconnected:
            self._metrics.requests["disconnected"] += 1
        except asyncio.CancelledError:
            # The server stops, and this request has had its time. Its event may still be committed.
            await self._refuse(send, Busy("the receiver stops"), scope["path"], receive)
        except Exception:
            log.exception("ingest.bug")
            # After any fault of Runhook the sender is to try again.
            await self._refuse(send, Busy("the event could not be kept"), scope["path"], receive)
        else:
            self._metrics.requests["accepted"] += 1
            self._metrics.request_seconds.observe(time.perf_counter() - started)
            await send(_ACCEPTED)
            await send({"type": "http.response.body", "body": b'{"event_id":"%b"}' % event_id.encode()})

    async def _ingest(self, scope: Scope, receive: Receive) -> str:
        """Commit the request's event, and return its id. Raises RequestError or _Disconnected."""
        source, secrets, submission_id = self._address(scope["path"], scope["method"])
        length, signature = _read_headers(scope["headers"])
        message: Message = {}
        try:
            if length > self._max_body:
                raise TooLarge(f"the body is over {self._max_body} bytes")
            message = await receive()
            if not message.get("more_body"):
                body = self._checked(message)
                with self._bodies.hold(size=len(body)):
                    return await self._accept(source, secrets, submission_id, signature, body)
            with self._bodies.hold() as held:
                body = await self._read(message, receive, held)
                return await self._accept(source, secrets, submission_id, signature, body)
        except TooLarge:
            if self._poll_hints.take():  # looking for a run's id has a cost of its own
                await self._hint_run(source, message, receive)
            raise

    async def _hint_run(self, source: str, message: Message, receive: Receive) -> None:
        """Ask for a poll of the run of an oversized body. Its id is in the first bytes, which are not verified.
        `message`: the first piece of the body, if it was received."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BEGINNING_TIMEOUT):
                message = message or await receive()
        run_id = scan_run_id(message.get("body", b"")[:BEGINNING])
        if run_id:
            await self._poll_hints.add(source, run_id)

    async def _accept(
        self, source: str, secrets: Sequence[str], submission_id: str, signature: str, body: bytes
    ) -> str:
        at = time.time()
        if len(body) > OFF_LOOP:
            event = await asyncio.to_thread(_authentic_id, source, secrets, signature, body)
        else:
            event = _authentic_id(source, secrets, signature, body)
        if not event:
            self._quarantine(source, signature, body, submission_id, at)
            raise Unauthorized("the signature fits none of the source's secrets")
        await self._commit(Event(event, source, body, at, "webhook", submission_id))
        return event

    def _address(self, path: str, method: str) -> tuple[str, Sequence[str], str]:
        """Return (source, its secrets, submission id or "") from the path. Raises NotFound, NotAllowed."""
        source, _, submission_id = path[len(PREFIX) :].partition("/")
        secrets = self._sources.get(source)
        if submission_id:
            submission_id = submission_id.rstrip("/")
        if secrets is None or "/" in submission_id:
            raise NotFound("no such source")
        if method != "POST":
            raise NotAllowed("a webhook is a POST", headers={"Allow": "POST"})
        # An unknown token binds nothing, and does not refuse an authentic body.
        return source, secrets, submission_id if _TOKEN.fullmatch(submission_id) else ""

    def _checked(self, message: Message) -> bytes:
        """Return the piece of the body in `message`. Raises _Disconnected, TooLarge."""
        if message["type"] != "http.request":
            raise _Disconnected
        piece: bytes = message.get("body", b"")
        if len(piece) > self._max_body:
            raise TooLarge(f"the body is over {self._max_body} bytes")
        return piece

    async def _read(self, message: Message, receive: Receive, held: HeldBody) -> bytes:
        """Read the body, of which `message` is the first piece. Raises _Disconnected, TooLarge, TimedOut, Busy."""
        received = bytearray()  # a list of pieces would take many times their bytes where each is a few
        try:
            async with asyncio.timeout(self._body_timeout):
                while True:
                    piece = self._checked(message)
                    if len(received) + len(piece) > self._max_body:
                        raise TooLarge(f"the body is over {self._max_body} bytes")
                    self._bodies.add(held, len(piece))
                    received += piece
                    if not message.get("more_body"):
                        return bytes(received)
                    message = await receive()
        except NoRoom as problem:
            raise Busy(str(problem)) from None
        except TimeoutError:
            raise TimedOut(f"the body did not come in within {self._body_timeout:g} s") from None

    async def _refuse(self, send: Send, error: RequestError, path: str, receive: Receive) -> None:
        """Respond with `error`. What is left of a body that is too large is dropped, so that its sender sees it."""
        self._metrics.requests[_OUTCOMES.get(type(error), "malformed")] += 1
        if error.status == Busy.status:
            self._metrics.refused, self._metrics.refused_at = self._metrics.refused + 1, time.time()
        if self._log_lines.take(1, time.monotonic()):
            log.warning("ingest.refused status=%d code=%s path=%.80r", error.status, error.code, path)
        drains = isinstance(error, TooLarge)
        body = orjson.dumps(error.to_dict())
        headers = [_JSON, (b"content-length", b"%d" % len(body))]
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        headers += [(b"connection", b"close")] if drains else []
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": drains})
        if drains:
            await _drain(receive)
            await send({"type": "http.response.body", "body": b""})


def _authentic_id(source: str, secrets: Sequence[str], signature: str, body: bytes) -> str:
    """Return the event id of an authentic body, else ""."""
    return event_id(source, body) if verify(body, signature, secrets) else ""


def _read_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, str]:
    """Return (announced length or 0, signature or "") of a request. Two different signatures count as ""."""
    length, signature = 0, ""
    for name, value in headers:
        if name == _SIGNATURE:
            given = value.decode("latin-1").strip(" \t")
            signature = given if signature in ("", given) else "several"
        elif name == b"content-length":
            length = int(value)  # the server has checked it
    return length, signature


async def _drain(receive: Receive) -> None:
    """Read the rest of a body and drop it, up to DRAIN_BYTES and BODY_TIMEOUT."""
    drained = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(BODY_TIMEOUT):
            while drained < DRAIN_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
