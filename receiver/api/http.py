"""The API over HTTP: a route for each endpoint, the caller's key, and problem details for errors.

Skyvern's older API, which the submit API passes on, is at /api/v1 too. Only the path /runs is in both: there, a key
without the scope `view` gets Skyvern's response. With an admin port, the public /api/v1 is only Skyvern's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import orjson
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Scope, Send

from receiver.api import openapi
from receiver.api.artifact_content import GET_CONTENT
from receiver.api.artifact_stream import ArtifactStreams
from receiver.api.call_pool import CallPool
from receiver.api.catalogue import ENDPOINTS
from receiver.api.endpoint import ROOT, Endpoint
from receiver.api.responses import CONTENT_TYPE, etag_of, is_known, problem_of
from receiver.api.service import Actor, Service
from receiver.api.tail import TAIL
from receiver.api.tail_stream import TailStreams
from receiver.domain.api_key import VIEW
from receiver.errors import Busy, Invalid, NoKey, NotAllowed, NotFound, RequestError, TooLarge, TooMany
from receiver.ledger import Ledger, LedgerDataError, LedgerUnavailable, OutcomeUnknown
from receiver.ledger.access.api_keys import Key
from receiver.ledger.database.async_ledger import AsyncLedger, limit_waits
from receiver.runtime.redis_client import connect
from receiver.runtime.throttle import TokenBucket
from receiver.web.component import Context, WebComponent, pass_on
from receiver.web.keys import Authenticator, ExpiredKey, presented_key
from receiver.web.limits import CallLimits
from receiver.web.responses import Refusal, Reply, address_of

# Bytes of the largest body of a call.
MAX_BODY: Final = 1 << 20
# Paths that Skyvern's older API has too.
SHARED: Final = "/runs"

# Seconds for which a key that was valid when keys were last read is accepted while the ledger is unavailable: metrics
# are needed most then.
TRUSTED_FOR: Final = 24 * 3600.0
# Seconds that the ledger has to respond: Prometheus waits 10 s, most of which the metrics may take.
KEY_PATIENCE: Final = 2.0

log = logging.getLogger("runhook.api")


def api(context: Context, tail: Callable[[Service, AsyncLedger], TailStreams] = TailStreams) -> WebComponent:
    """Return the component that serves /api/v1. It stands before the submit API, which passes on what is left."""
    server = _Api(context, tail)
    operators = OperatorKeys(server.identify, server.remembered)
    context.access.check_key = operators.check

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        await server.close()

    routes = [Route(ROOT + openapi.PATH, server.describe, methods=["GET"])]
    routes += [Route(ROOT + each.path, server.handler(each), methods=[each.method]) for each in ENDPOINTS]
    admin = [AllBelowRoot(routes)] if context.access.has_admin_port else routes
    return WebComponent(lifespan=lifespan, stop=server.stop, admin=admin)


class _Api:
    def __init__(self, context: Context, tail: Callable[[Service, AsyncLedger], TailStreams]) -> None:
        settings, config = context.settings, context.config
        ledger = Ledger(settings.database_url, require_durability=config.durable_ledger)
        self._service = Service(settings, ledger, config)
        self._ledger = AsyncLedger(Ledger(settings.database_url), context.ledger_wait)
        self._redis = connect(settings.redis_url, timeout=0.5, connect_timeout=0.5, retries=1)
        self._authenticator = Authenticator(
            self._ledger,
            self._redis,
            config.submit.rate,
            context.background,
            context.metrics.submit_refused,
            no_key_status=NoKey.status,
        )
        self._limits = CallLimits(context.bodies, MAX_BODY)
        self._has_admin_port = context.access.has_admin_port
        self._pool = CallPool("api")
        self._artifacts = ArtifactStreams(self._service)
        self._tail = tail(self._service, self._ledger)
        self.stop = self._tail.stop
        self._log_limit = TokenBucket(1, 10)
        self._description: tuple[bytes, str] | None = None

    async def describe(self, request: Request) -> Response:
        """Return the OpenAPI document. It needs no key: it is the same in each deployment."""
        if self._description is None:
            described = orjson.dumps(await asyncio.to_thread(openapi.document, ENDPOINTS))
            self._description = described, etag_of(described)
        return _response(request, *self._description)

    def handler(self, endpoint: Endpoint[Any, Any]) -> Callable[[Request], Awaitable[Response]]:
        """Return the handler of `endpoint`'s requests."""
        shared = endpoint.path.startswith(SHARED) and not self._has_admin_port

        async def handle(request: Request) -> Response:
            limit_waits()
            try:
                key = await self._key(request)
                if shared and VIEW not in key.scopes and CONTENT_TYPE not in request.headers.get("accept", ""):
                    return pass_on(request)
                if endpoint is TAIL and self._tail.accepts_stream(request):
                    return await self._tail.open(request, key)
                if endpoint is GET_CONTENT and self._artifacts.accepts_stream(request):
                    return await self._content(request, Actor.of_key(key))
                async with self._limits.body(request, key.id) as body:
                    encoded, etag = await self._pool.run(
                        lambda: self._answer(endpoint, Actor.of_key(key, address_of(request)), request, body)
                    )
                return _response(request, encoded, etag)
            except RequestError as error:
                return _problem(error)
            except Refusal as refusal:
                return _problem(_error_of(refusal.reply))
            except LedgerUnavailable as trouble:
                if self._log_limit.take(1, time.monotonic()):
                    log.warning("api.unavailable ledger=%s", trouble)
                unknown = isinstance(trouble, OutcomeUnknown)
                return _problem(Busy(str(trouble) if unknown else "ledger database unavailable", retry_after=5))
            except LedgerDataError:
                return _problem(Invalid("the request contains characters that the database cannot store, such as NUL"))
            except ClientDisconnect:
                return Response(status_code=400)  # the client is gone

        return handle

    async def _content(self, request: Request, actor: Actor) -> Response:
        actor.require(GET_CONTENT.scope)
        parameters = GET_CONTENT.parse({}, request.query_params.multi_items())
        return await self._artifacts.answer(request, actor, parameters)

    async def identify(self, request: Request) -> Key:
        """Return the caller's key, whatever it may do. Raises RequestError and LedgerUnavailable."""
        try:
            return await self._key(request)
        except Refusal as refusal:
            raise _error_of(refusal.reply) from None

    def remembered(self, request: Request) -> Key | None:
        """Return the caller's key as it was last read, within TRUSTED_FOR."""
        return self._authenticator.remembered(presented_key(request.headers), TRUSTED_FOR)

    async def _key(self, request: Request) -> Key:
        try:
            key = await self._authenticator.identify(request.headers, address_of(request))
        except ExpiredKey:
            raise NoKey("the API key has expired; create another with `runhook keys create` or `rotate`") from None
        if key is None and presented_key(request.headers):
            raise NoKey("invalid or revoked API key; `runhook keys list` on the server shows its keys")
        if key is None:
            raise NoKey(
                "give an API key with the scope view: `Authorization: Bearer rhk_…`; `runhook keys create` makes one"
            )
        return key

    def _answer(self, endpoint: Endpoint[Any, Any], actor: Actor, request: Request, body: bytes) -> tuple[bytes, str]:
        """Return the result and its ETag. Called in a thread, because of large bodies and results."""
        actor.require(endpoint.scope)  # before other errors, which would reveal what exists
        parameters = endpoint.parse(request.path_params, request.query_params.multi_items(), body)
        result: BaseModel = endpoint.call(self._service, actor, parameters)
        encoded = result.model_dump_json().encode()
        return encoded, etag_of(encoded)

    async def close(self) -> None:
        """Stop the threads and close the connections."""
        self._authenticator.close()
        self._pool.close()
        self._artifacts.close()
        await self._ledger.close()
        self._service.ledger.close()


class OperatorKeys:
    """Checks the keys with which programs of operators read /metrics and /readyz?all on the public port.

    `identify`: returns the valid key of a request; raises RequestError and LedgerUnavailable. `remembered`: returns the
    key as it was last read, if that was lately. `patience`: see KEY_PATIENCE.
    """

    def __init__(
        self,
        identify: Callable[[Request], Awaitable[Key]],
        remembered: Callable[[Request], Key | None],
        patience: float = KEY_PATIENCE,
    ) -> None:
        self._identify = identify
        self._remembered = remembered
        self._patience = patience

    async def check(self, request: Request) -> None:
        """Return for a key of all sources that may view. Raises RequestError for any other."""
        key: Key | None
        try:
            async with asyncio.timeout(self._patience):
                key = await self._identify(request)
        except (LedgerUnavailable, TimeoutError):
            key = self._remembered(request)
        if key is None:
            raise Busy("ledger database unavailable, so no key can be checked", retry_after=5)
        actor = Actor.of_key(key)
        actor.require(VIEW)
        actor.require_all_sources()


def _response(request: Request, encoded: bytes, etag: str) -> Response:
    """Return a result; 304 when the client has it already."""
    if request.method not in ("GET", "HEAD"):
        return Response(encoded, 200, {"cache-control": "no-store"}, "application/json")
    # A client revalidates it each time; it belongs to the key.
    headers = {"etag": etag, "cache-control": "private, no-cache", "vary": "authorization, x-api-key"}
    if is_known(",".join(request.headers.getlist("if-none-match")), etag):
        return Response(status_code=304, headers=headers)
    return Response(encoded, 200, headers, "application/json")


def _problem(error: RequestError) -> Response:
    return Response(orjson.dumps(problem_of(error)), error.status, error.headers, CONTENT_TYPE)


class AllBelowRoot(BaseRoute):
    """The routes of the API where everything below ROOT belongs to it: with problem details for unknown paths."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._router = Router(routes, redirect_slashes=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return whether a request is for the API."""
        is_ours = scope["type"] == "http" and scope["path"].startswith(f"{ROOT}/")
        return (Match.FULL if is_ours else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            calls = f"{ROOT}{openapi.PATH} lists all calls"
            found: RequestError = NotFound(f"unknown path; {calls}")
            if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
                headers = dict(error.headers or {})
                found = NotAllowed(f"the method must be {headers.get('Allow')}; {calls}", headers=headers)
            await _problem(found)(scope, receive, send)


def _error_of(reply: Reply) -> RequestError:
    """Return a refusal of code that is shared with the submit API as an error of this API."""
    detail = str(orjson.loads(reply.body).get("detail", ""))
    retry_after = {name.title(): value for name, value in reply.headers.items() if name.lower() == "retry-after"}
    if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
        return TooMany(detail, headers=retry_after)
    return TooLarge(detail) if reply.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE else Busy(detail)
