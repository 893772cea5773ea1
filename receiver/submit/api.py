"""The submit API as a part of the web application: Skyvern's own paths, for upstream apps with keys of ours.

It puts together what the other modules of this package do, and turns a request into their arguments and what they
give into a response. Errors have Skyvern's shape, {"detail": …}.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

import redis
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from handlers.support.address_policy import AllowedAddresses
from receiver import wakeups
from receiver.domain.callback import CALLBACK
from receiver.domain.poll_schedule import first_poll
from receiver.domain.redaction import Redactor
from receiver.domain.run import RunKey
from receiver.errors import ConfigError
from receiver.ledger import Ledger, LedgerDataError, LedgerUnavailable
from receiver.ledger.api_keys import Key
from receiver.ledger.async_ledger import AsyncLedger
from receiver.ledger.deliveries.resend import DeliveryStatus, statuses
from receiver.ledger.runs import RunStatus, standings
from receiver.ledger.submissions.lifecycle import Submission
from receiver.reconcile.resolver import INLINE_PATIENCE, Resolver, prove
from receiver.runtime.redis_client import connect
from receiver.runtime.throttle import TokenBucket
from receiver.skyvern import Answered, SkyvernAPI, SkyvernReader
from receiver.submit.auth import INVALID, Authenticator, scope_of
from receiver.submit.callback_mask import CallbackMask
from receiver.submit.long_poll import Waiters
from receiver.submit.proxy import Passthrough
from receiver.submit.replies import Refusal, Reply, error
from receiver.submit.request.endpoints import CALLS, Endpoint
from receiver.submit.request.source import Source
from receiver.submit.results import Results
from receiver.submit.retry_webhook import Resender
from receiver.submit.submitter import Submitter
from receiver.web.part import Context, WebPart

STOP_WITHIN: Final = 8.0
"""Seconds from the beginning of a stop within which submits on their way are still waited for."""
BODY_TIMEOUT: Final = 120.0
"""Seconds that a request's body may take; files are uploaded through here too."""
LEAVE_AFTER: Final = 3.5
"""Seconds from the beginning of a stop after which a caller is told that its answer can't be awaited any longer."""
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]

T = TypeVar("T")


class Caller(NamedTuple):
    """The source that the key of a call is for, and the key."""

    source: Source
    key: Key


Handler = Callable[[Request, Caller], Awaitable[Response]]

log = logging.getLogger("runhook.submit")


def submit(context: Context) -> WebPart:
    """The part that serves /v1 and /api/v1."""
    api = _Api(context)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        await api.close()

    # Skyvern takes a slash at the end, and its SDKs send one here and there.
    routes = [
        Route(path + slash, api.entry(handler), methods=methods)
        for methods, path, handler in (
            *((["POST"], call.path, api.submit(call)) for call in CALLS),
            (["GET"], "/v1/runs/{run_id}", api.get_run),
            (["GET"], "/v1/runs/{run_id}/events", api.events),
            (["POST"], "/v1/runs/{run_id}/retry_webhook", api.retry_webhook),
            (["POST"], "/api/v1/tasks/{run_id}/retry_webhook", api.retry_legacy_webhook),
        )
        for slash in ("", "/")
    ]
    others = [Route(root + "/{rest:path}", api.entry(api.other), methods=_METHODS) for root in ("/v1", "/api/v1")]
    return WebPart([*routes, *others], lifespan, api.stop)


class _Api:
    def __init__(self, context: Context) -> None:
        settings, config = context.settings, context.config
        self._lines = TokenBucket(1, 10)
        self._max_body = config.server.max_body
        self._max_wait = config.submit.max_wait
        self.sources: dict[str, Source] = {}
        allowed = AllowedAddresses(config.allowed_addresses)
        for name, source in config.sources.items():
            if (found := source.api(settings.skyvern_base_url)) is None:
                continue
            try:
                api = SkyvernAPI(*found)
            except ConfigError as problem:
                raise ConfigError(*(f"{settings.config}: sources.{name}.{each}" for each in problem.problems)) from None
            callbacks = f"{settings.public_url}/webhooks/{name}" if settings.public_url else ""
            secrets = tuple(each.encode() for each in source.signing_secrets)
            self.sources[name] = Source(name, api, callbacks, secrets, allowed)
        ledger = Ledger(settings.database_url)
        self._store = AsyncLedger(ledger)
        client = connect(settings.redis_url, timeout=0.5, connect_timeout=0.5, retries=1)
        self._gate = Authenticator(self._store, client, config.submit.rate)
        self._waiters: Waiters[RunKey, RunStatus] = Waiters(
            lambda wanted: self._store.read(lambda connection: standings(connection, wanted)),
            config.submit.max_waiters,
        )
        self._senders: Waiters[str, DeliveryStatus] = Waiters(
            lambda wanted: self._store.read(lambda connection: statuses(connection, wanted)), config.submit.max_waiters
        )
        context.metrics.held = lambda: len(self._waiters) + len(self._senders)
        self._redis = client
        self._stopped_at: float | None = None
        self._leaving: asyncio.Future[None] | None = None
        disguise = CallbackMask(self._store)
        self._after = config.reconcile.after
        self._readers: dict[str, SkyvernReader] = {}
        self._provers = ThreadPoolExecutor(8, "submit-proof")  # of their own: they may all hang at once
        self._resolvers = {
            name: Resolver(
                name, self._readers.setdefault(name, SkyvernReader(*found, patience=INLINE_PATIENCE)), ledger
            )
            for name, source in config.sources.items()
            if (found := source.api(settings.skyvern_base_url)) is not None
        }
        self._submitter = Submitter(self._store, Redactor(config.redact), self._prove, self._due)
        self._results = Results(self._store, self._waiters, disguise, context.group_commit.commit)
        self._passthrough = Passthrough(disguise)
        self._resender = Resender(self._store, self._results, self._senders, disguise, self._wake)

    def entry(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """`handler` behind the gate, and every way in which a call may end as an answer."""

        async def serve(request: Request) -> Response:
            self._leaving = self._leaving or asyncio.get_running_loop().create_future()
            work = asyncio.ensure_future(answer(request))
            try:
                either: set[asyncio.Future[Any]] = {work, self._leaving}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    await asyncio.wait({work}, timeout=LEAVE_AFTER)
                if work.done():
                    return work.result()
                request.state.left = True
                if request.method in ("GET", "HEAD"):
                    return _response(error(503, "The receiver is being stopped; ask again", retry_after="2"))
                return _response(error(502, "The receiver is being stopped; what became of the call is not known yet"))
            finally:
                work.cancel()

        async def answer(request: Request) -> Response:
            try:
                key = await self._gate.admit(request.headers, scope_of(request.method, _path(request)))
                return await handler(request, Caller(self._source(key), key))
            except Refusal as refusal:
                return _response(refusal.reply)
            except LedgerUnavailable as trouble:
                if self._lines.take(1, time.monotonic()):
                    log.warning("submit.unavailable ledger=%s", trouble)
                return _response(error(503, "The ledger is away; nothing was done", retry_after="5"))
            except LedgerDataError:
                return _response(error(422, "The request holds a text that can't be kept"))
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it

        return serve

    async def _prove(self, submission: Submission) -> Answered | None:
        resolver = self._resolvers.get(submission.source)
        return await prove(resolver, submission, lambda now: now + self._after, self._provers) if resolver else None

    def _due(self, _: str, members: Mapping[str, Any], headers: Mapping[str, str], now: float) -> float:
        return first_poll(members, headers, now, self._after)

    def _source(self, key: Key) -> Source:
        source = self.sources.get(key.source)
        if source is None:
            raise Refusal(error(503, f"The source {key.source} has no API in the config", retry_after="60"))
        return source

    def submit(self, call: Endpoint) -> Handler:
        """What serves this call."""

        async def serve(request: Request, caller: Caller) -> Response:
            body = await self._body(request)
            path, query = _path(request).rstrip("/"), _query(request)

            async def gone() -> bool:
                return getattr(request.state, "left", False) or await request.is_disconnected()

            return _response(await self._submitter.submit(*caller, call, path, query, body, request.headers, gone))

        return serve

    async def get_run(self, request: Request, caller: Caller) -> Response:
        given = request.query_params.get("wait", "0")
        try:
            wait = float(given.removesuffix("s"))
            if not 0 <= wait < 1e9:
                raise ValueError
        except ValueError:
            raise Refusal(error(422, "wait: must be a number of seconds")) from None
        run_id, origin = request.path_params["run_id"], request.query_params.get("from")
        if origin not in (None, "skyvern") or (origin and wait):
            raise Refusal(error(422, "from: can be skyvern alone, and not together with wait"))
        if origin:
            return _response(await self._results.fresh(*caller, run_id))
        asked = self._results.get(*caller, run_id, min(wait, self._max_wait))
        if not wait:
            return _response(await asked)
        reply = await _while_there(request, asked)
        if not await self._gate.holds(caller.key):
            raise Refusal(error(403, INVALID))
        return _response(reply)

    async def events(self, request: Request, caller: Caller) -> Response:
        found = await self._results.changes(*caller, request.path_params["run_id"])
        if isinstance(found, Reply):
            return _response(found)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", "content-type": "text/event-stream"}
        return _Streaming(self._while_held(found, caller.key), 200, headers)

    async def _while_held(self, pieces: AsyncGenerator[bytes, None], key: Key) -> AsyncGenerator[bytes, None]:
        """`pieces`, until the key is revoked: a stream may last for as long as its run."""
        with contextlib.suppress(LedgerUnavailable):
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    if not await self._gate.holds(key):
                        return
                    yield piece

    async def retry_webhook(self, request: Request, caller: Caller) -> Response:
        body = await self._body(request)
        asked = self._resender.retry(*caller, request.path_params["run_id"], body)
        reply = await _while_there(request, asked)
        return await self._act(request, caller, body) if reply is None else _response(reply)

    async def retry_legacy_webhook(self, request: Request, caller: Caller) -> Response:
        """The older call, which has no address of its own and is answered with the task, whatever came of it."""
        body, task = await self._body(request), request.path_params["run_id"]
        reply = await _while_there(request, self._resender.retry(*caller, task, b""))
        if reply is None or reply.status != 200:
            return await self._act(request, caller, body)
        path = f"/api/v1/tasks/{quote(task, safe='')}"
        found = await self._passthrough.act(*caller, "GET", path, "", request.headers, b"")
        return _response(found)

    async def other(self, request: Request, caller: Caller) -> Response:
        path, query = _path(request), _query(request)
        if request.method not in ("GET", "HEAD"):
            return await self._act(request, caller, await self._body(request))
        asked = self._passthrough.read(*caller, request.method, path, query, request.headers)
        found = await _while_there(request, asked)
        if isinstance(found, Reply):
            return _response(found)
        reply, pieces = found
        return _Streaming(pieces, reply.status, dict(reply.headers))

    async def _act(self, request: Request, caller: Caller, body: bytes) -> Response:
        path, query = _path(request), _query(request)
        return _response(await self._passthrough.act(*caller, request.method, path, query, request.headers, body))

    async def _body(self, request: Request) -> bytes:
        pieces, size = [], 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                async for piece in request.stream():
                    size += len(piece)
                    if size > self._max_body:
                        raise Refusal(error(413, f"The body is over {self._max_body} bytes"))
                    pieces.append(piece)
        except TimeoutError:
            raise Refusal(error(408, "The body did not come in time", connection="close")) from None
        return b"".join(pieces)

    async def _wake(self) -> None:
        """Ring for what is due to callers. Without Redis the clock does, as soon as it is back."""
        with contextlib.suppress(redis.RedisError):
            await asyncio.to_thread(wakeups.wake_sinks, self._redis, [CALLBACK])

    def stop(self) -> None:
        """Hold no request any longer: each is answered as if its time were up."""
        self._stopped_at = time.monotonic()
        if self._leaving is not None and not self._leaving.done():
            self._leaving.set_result(None)
        self._waiters.stop()
        self._senders.stop()

    async def close(self) -> None:
        began = time.monotonic() if self._stopped_at is None else self._stopped_at
        await self._submitter.close(max(0.5, began + STOP_WITHIN - time.monotonic()))
        await self._waiters.close()
        await self._senders.close()
        for source in self.sources.values():
            await source.api.aclose()
        for reader in self._readers.values():
            reader.close()
        self._provers.shutdown(wait=False, cancel_futures=True)
        self._gate.close()
        await self._store.close()


def _path(request: Request) -> str:
    """The path as it stands on the wire."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.split(b"?")[0].decode("latin-1")


def _query(request: Request) -> str:
    query: bytes = request.scope["query_string"]
    return query.decode("latin-1")


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, dict(reply.headers))


class _Body(Protocol):
    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class _Streaming(StreamingResponse):
    """A body in pieces that is closed however its answer ends: a caller may hang up before the first piece, too."""

    def __init__(self, body: _Body, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(body, status, headers)
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._body.aclose()


async def _while_there(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives. A caller that hangs up ends it: nothing is held for nobody."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each
