"""The submit API as a component of the web application: Skyvern's own paths, for upstream apps with Runhook's keys.

It builds the other modules of this package, and turns a request into their arguments and their replies into responses.
Errors have Skyvern's shape, {"detail": …}.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final
from urllib.parse import quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from handlers.support.address_policy import AllowedAddresses
from receiver.config.skyvern_key import api_key_remedy
from receiver.dispatch.decide import make_router
from receiver.dispatch.late_binding import LateBinding
from receiver.domain.agent_url import hooks_of
from receiver.domain.api_key import ALL_SOURCES
from receiver.domain.redaction import Redactor
from receiver.domain.run import RunKey
from receiver.errors import ConfigError
from receiver.ledger import Ledger, LedgerDataError, LedgerUnavailable
from receiver.ledger.access.api_keys import Key
from receiver.ledger.database.async_ledger import AsyncLedger, limit_waits
from receiver.runtime.redis_client import connect
from receiver.runtime.throttle import TokenBucket
from receiver.skyvern.client import SkyvernAPI
from receiver.submit.endpoints import ENDPOINTS, SubmitCall, SubmitEndpoint, scope_of
from receiver.submit.limits import LIMITS, SubmitLimits
from receiver.submit.long_poll import LongPoll
from receiver.submit.proxy import Proxy
from receiver.submit.replies import SecretScan
from receiver.submit.results import Results
from receiver.submit.retry_webhook import WebhookRetrier
from receiver.submit.source import Caller, Source
from receiver.submit.submitter import Submitter
from receiver.submit.waited_runs import WaitedRun, WaitedRuns
from receiver.web.component import Context, WebComponent
from receiver.web.keys import INVALID_KEY, Authenticator
from receiver.web.limits import CallLimits, TooManyWaiters, WaiterLimit
from receiver.web.responses import (
    Refusal,
    Reply,
    StreamedResponse,
    address_of,
    chunks_of,
    error,
    path_of,
    query_of,
    to_response,
    while_connected,
)

# Seconds from the beginning of a stop until which submits may still be answered by Skyvern.
SUBMIT_STOP_LIMIT: Final = 8.0
# Seconds from the beginning of a stop after which a caller gets an error instead of the reply it waits for.
REPLY_LIMIT: Final = 3.5
# Seconds in which an uploaded file must be received.
UPLOAD_TIMEOUT: Final = 600.0
UPLOADS: Final = frozenset({"/v1/upload_file", "/api/v1/upload_file"})
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]

Handler = Callable[[Request, Caller], Awaitable[Response]]

log = logging.getLogger("runhook.submit")


def submit(context: Context, limits: SubmitLimits = LIMITS) -> WebComponent:
    """Return the component that serves /v1 and /api/v1."""
    api = _Api(context, limits)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        await api.close()

    table = [
        *(("POST", endpoint.path, api.submit(endpoint)) for endpoint in ENDPOINTS),
        ("GET", "/v1/runs/{run_id}", api.get_run),
        ("POST", "/v1/runs/{run_id}/retry_webhook", api.retry_webhook),
        ("POST", "/api/v1/tasks/{run_id}/retry_webhook", api.retry_legacy_webhook),
    ]
    # Skyvern accepts a trailing slash, and its SDKs sometimes send one.
    routes = [
        Route(path + slash, api.serve(handler), methods=[method])
        for method, path, handler in table
        for slash in ("", "/")
    ]
    routes += [Route(root + "/{rest:path}", api.serve(api.proxy), methods=_METHODS) for root in ("/v1", "/api/v1")]
    return WebComponent(routes, lifespan, api.stop)


class _Api:
    """`_closing`: closes what was opened, the newest first."""

    def __init__(self, context: Context, limits: SubmitLimits) -> None:
        settings, config = context.settings, context.config
        self._limits = limits
        self._log_limit = TokenBucket(1, 10)
        self._max_wait = config.submit.max_wait
        self._stopped_at: float | None = None
        self._under_way: set[asyncio.Timeout] = set()
        self._closing = contextlib.AsyncExitStack()
        blocking = Ledger(settings.database_url, require_durability=config.durable_ledger)
        ledger = AsyncLedger(blocking, context.ledger_wait)
        self._closing.push_async_callback(ledger.close)
        redis = connect(settings.redis_url, timeout=0.5, connect_timeout=0.5, retries=1)
        refused = context.metrics.submit_refused
        self._authenticator = Authenticator(ledger, redis, config.submit.rate, context.background, refused)
        self._closing.callback(self._authenticator.close)
        self._calls = CallLimits(context.bodies, config.submit.max_body, limits.calls, limits.body)
        self._places = WaiterLimit(config.submit.max_waiters, config.submit.waiter_share)
        context.metrics.held = lambda: len(self._places)

        redactor = Redactor(config.redact)
        late = LateBinding(partial(make_router, config), redactor).route_again
        self.sources: dict[str, Source] = {}
        waited = WaitedRuns(ledger, self.sources.keys())
        self._states: LongPoll[RunKey, WaitedRun] = LongPoll(waited.query, context.background)
        grace = config.reconcile.paced(webhooks=settings.waits_for_webhooks).webhook_grace
        kept = config.retention.events
        self._results = Results(ledger, self._states, self._places, limits, grace, kept)
        self._proxy = Proxy(ledger)
        self._retrier = WebhookRetrier(ledger, self._results, self._states, limits.retry_webhook)

        # The secrets of all sources, since a server may know more than one; and what callers' keys are derived from.
        signing = [secret for source in config.sources.values() for secret in source.signing_secrets]
        secrets = SecretScan((*signing, settings.master_secret()))
        allowed = AllowedAddresses(config.allowed_addresses)
        for name, configured in config.sources.items():
            if (account := configured.api(settings.skyvern_base_url)) is None:
                continue
            api = self._open_client(f"{settings.config}: sources.{name}", account)
            self.sources[name] = Source(name, api, hooks_of(settings.public_url, name), secrets, allowed)
        self._closing.push_async_callback(self._states.close)
        self._submitter = Submitter(ledger, redactor, config.reconcile.after, late, limits)

    def _open_client(self, place: str, account: tuple[str, str]) -> SkyvernAPI:
        """Return the API client of a source. `account`: base URL and key. Raises ConfigError, which names `place`."""
        try:
            api = SkyvernAPI(*account)
        except ConfigError as error:
            raise ConfigError(*(f"{place}.{problem}" for problem in error.problems)) from None
        self._closing.push_async_callback(api.aclose)
        return api

    def serve(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Return `handler` for authenticated callers, with a response for each error, and for a stop."""

        async def serve(request: Request) -> Response:
            loop = asyncio.get_running_loop()
            limit = asyncio.timeout_at(None if self._stopped_at is None else loop.time() + REPLY_LIMIT)
            try:
                async with limit:
                    self._under_way.add(limit)
                    return await respond(request)
            except TimeoutError:
                if not limit.expired():
                    raise
                request.state.abandoned = True
                if request.method in ("GET", "HEAD"):
                    return to_response(error(503, "The receiver is being stopped; ask again", retry_after="2"))
                return to_response(
                    error(502, "The receiver is being stopped; what became of the call is not known yet")
                )
            finally:
                self._under_way.discard(limit)

        async def respond(request: Request) -> Response:
            limit_waits()
            try:
                scope = scope_of(request.method, path_of(request))
                key = await self._authenticator.authenticate(request.headers, scope, address_of(request))
                return await handler(request, Caller(self._source_of(key), key))
            except Refusal as refusal:
                return to_response(refusal.reply)
            except TooManyWaiters as problem:
                return to_response(error(503, str(problem), retry_after="5"))
            except LedgerUnavailable as trouble:
                if self._log_limit.take(1, time.monotonic()):
                    log.warning("submit.unavailable ledger=%s", trouble)
                return to_response(error(503, "The ledger is unavailable; nothing was done", retry_after="5"))
            except LedgerDataError:
                return to_response(error(422, "The request holds a text that can't be kept"))
            except ClientDisconnect:
                return Response(status_code=400)  # never read

        return serve

    def _source_of(self, key: Key) -> Source:
        """Return the source that the key is for. Raises Refusal."""
        if key.source == ALL_SOURCES:
            raise Refusal(error(403, "The key is for all sources, so its calls cannot be forwarded to one"))
        if key.source not in self.sources:
            words = f"Runhook's config has no api_key for the source {key.source}. {api_key_remedy(key.source)}"
            raise Refusal(error(503, words, retry_after="60"))
        return self.sources[key.source]

    # The handlers.

    def submit(self, endpoint: SubmitEndpoint) -> Handler:
        """Return the handler of an endpoint that creates runs."""

        async def handle(request: Request, caller: Caller) -> Response:
            path, query = path_of(request).rstrip("/"), query_of(request)

            async def is_disconnected() -> bool:
                return getattr(request.state, "abandoned", False) or await request.is_disconnected()

            async with self._calls.body(request, caller.key.id) as body:
                call = SubmitCall(endpoint, path, query, body, request.headers)
                reply = await self._submitter.submit(caller, call, is_disconnected)
            return to_response(reply)

        return handle

    async def get_run(self, request: Request, caller: Caller) -> Response:
        """GET of a run, held for up to `wait` seconds until it is final."""
        run_id, origin = request.path_params["run_id"], request.query_params.get("from")
        try:
            wait = float(request.query_params.get("wait", "0").removesuffix("s"))
            if not 0 <= wait < 1e9:
                raise ValueError
        except ValueError:
            raise Refusal(error(422, "wait: must be a number of seconds")) from None
        if origin not in (None, "skyvern", "submission") or (origin and wait):
            raise Refusal(error(422, "from: can be skyvern or submission, and not together with wait"))
        if origin == "submission":
            return to_response(await self._results.get_request(caller, run_id))
        if origin:
            return to_response(await self._results.get_from_skyvern(caller, run_id))
        work = self._results.get(caller, run_id, min(wait, self._max_wait))
        if not wait:
            return to_response(await work)
        reply = await while_connected(request, work)
        if not await self._authenticator.is_valid(caller.key):
            raise Refusal(error(403, INVALID_KEY))
        return to_response(reply)

    async def retry_webhook(self, request: Request, caller: Caller) -> Response:
        """Resend the caller's webhook; Skyvern does it for runs that were not submitted here."""
        async with self._calls.body(request, caller.key.id) as body:
            reply = await self._retry(request, caller, body)
            return await self._forward(request, caller, body) if reply is None else to_response(reply)

    async def _retry(self, request: Request, caller: Caller, body: bytes) -> Reply | None:
        try:
            with self._places.place(caller.key.id):
                return await while_connected(request, self._retrier.retry(caller, request.path_params["run_id"], body))
        except TooManyWaiters as problem:
            raise Refusal(error(503, str(problem), retry_after="5")) from None

    async def retry_legacy_webhook(self, request: Request, caller: Caller) -> Response:
        """Serve the older call, which has no URL of its own and is answered with the task, whatever came of it."""
        task = request.path_params["run_id"]
        async with self._calls.body(request, caller.key.id) as body:
            reply = await self._retry(request, caller, b"")
            if reply is None or reply.status != 200:
                return await self._forward(request, caller, body)
        path = f"/api/v1/tasks/{quote(task, safe='')}"
        return to_response(await self._proxy.forward(caller, "GET", path, "", request.headers, b""))

    async def proxy(self, request: Request, caller: Caller) -> Response:
        """Forward any other call to Skyvern."""
        is_upload = request.method == "POST" and path_of(request).rstrip("/") in UPLOADS
        if request.method not in ("GET", "HEAD") and not is_upload:
            async with self._calls.body(request, caller.key.id) as body:
                return await self._forward(request, caller, body)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._calls.call(caller.key.id))
            path, query, headers = path_of(request), query_of(request), request.headers
            if is_upload:
                chunks = chunks_of(request, self._limits.upload, UPLOAD_TIMEOUT)
                return to_response(await self._proxy.upload(caller, path, query, headers, chunks))
            result = await while_connected(request, self._proxy.read(caller, request.method, path, query, headers))
            if isinstance(result, Reply):
                return to_response(result)
            reply, streamed = result
            return StreamedResponse(streamed, reply.status, dict(reply.headers), stack.pop_all().close)

    async def _forward(self, request: Request, caller: Caller, body: bytes) -> Response:
        path, query = path_of(request), query_of(request)
        return to_response(await self._proxy.forward(caller, request.method, path, query, request.headers, body))

    def stop(self) -> None:
        """End all waiting: each held request is answered as if its time were up."""
        self._stopped_at = time.monotonic()
        reply_by = asyncio.get_running_loop().time() + REPLY_LIMIT
        for limit in self._under_way:
            limit.reschedule(reply_by)
        self._states.stop()

    async def close(self) -> None:
        """Wait for submits that are being sent, then close all connections."""
        stopped_at = time.monotonic() if self._stopped_at is None else self._stopped_at
        async with self._closing:
            await self._submitter.close(max(0.5, stopped_at + SUBMIT_STOP_LIMIT - time.monotonic()))
