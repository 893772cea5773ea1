"""The web application: the webhook route, and the routes that other modules add. It knows no sink and no ledger.

To add routes, as the submit API and /metrics do, write a function from Context to WebComponent in a module of its own,
and list it in receiver.cli.serve.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain import signature
from receiver.domain.frame import EntryKeys
from receiver.errors import NotAllowed, NotFound, RequestError, error_location
from receiver.ingest import redis_settings
from receiver.ingest.endpoint import PREFIX, Ingest
from receiver.ingest.group_commit import GroupCommit, Limits
from receiver.ingest.held_bodies import HeldBodies
from receiver.ingest.poll_hints import PollHintWriter
from receiver.ingest.quarantine import Quarantine, QuarantineWriter
from receiver.ingest.spool import Spool, SpoolFull, spool_trouble
from receiver.ledger.database.async_ledger import WAIT
from receiver.runtime.background import Background
from receiver.telemetry.receiver import ReceiverMetrics
from receiver.web.component import Context, OperatorAccess, WebComponent, is_admin
from receiver.web.health import HEALTH, health

# Bytes of bodies that may be in memory at once, over all requests, and the share of them that one key may take of what
# others leave free; and the share that all keys together may take: the rest, a body at least, is for webhooks.
HELD_BYTES: Final = 256 << 20
KEY_SHARE: Final = 0.5
ALL_KEYS_SHARE: Final = 0.75

log = logging.getLogger("runhook.ingest")


class Application(Starlette):
    """Starlette, and a second application for the admin port.

    `admin`: what is served there; None without such a port.
    """

    metrics: ReceiverMetrics
    components: Sequence[WebComponent] = ()
    admin: Starlette | None = None

    def add(self, components: Sequence[WebComponent]) -> None:
        """Add the routes of `components`.

        Those for operators come first: the submit API passes on all other calls under /api/v1 to Skyvern.
        """
        self.components = [*self.components, *components]
        for_operators = self.router if self.admin is None else self.admin.router
        for_operators.routes += [route for component in components for route in component.admin]
        self.router.routes += [route for component in components for route in component.routes]

    def stop(self) -> None:
        """End held requests. The server calls it before it waits for requests to end."""
        for component in self.components:
            component.stop()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.admin is not None and is_admin(scope):
            await self.admin(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def check_at_start(settings: Settings, config: Config) -> str:
    """Return in one line what a 202 will mean. Raises NotStarted when an application would not start, or must not.

    Call it before the server runs: at its start-up, an ASGI server could only print a traceback.
    """
    full = ""
    spool = _spool(settings, config)
    spool.open()
    if spool.events:
        log.warning("spool.found events=%d bytes=%d", spool.events, spool.bytes)
    try:
        spool.check()
    except (SpoolFull, OSError) as error:
        full = spool_trouble(error)
    finally:
        spool.close()
    server = config.server
    found = redis_settings.check_at_start(
        settings.redis_url, server.max_body, server.accept_weaker_durability, str(settings.config)
    )
    if full and (found is None or settings.embedded_redis):
        away = "Redis is down, and " if found is None else ""
        return f"webhooks get 503, because no event can be stored: {away}{full}"
    return str(found) if found else "on disk before 202: yes, in the spool (Redis is down)"


def _spool(settings: Settings, config: Config) -> Spool:
    return Spool(settings.data / "spool", config.spool.max_bytes, config.spool.reserve_bytes)


def create_app(
    settings: Settings,
    config: Config,
    components: Sequence[Callable[[Context], WebComponent]] = (health,),
    *,
    has_admin_port: bool = False,
    ledger_wait: float = WAIT,
    held_bytes: int = HELD_BYTES,
) -> Application:
    """Return the application with the routes of `components`. It opens everything at ASGI start-up, and nothing before.

    `has_admin_port`: routes for operators are served to requests that came to the admin port, and to no others.
    `ledger_wait`: seconds that a request waits for the ledger in all. `held_bytes`: of bodies in memory, at least.
    """
    context = _context(settings, config, OperatorAccess(has_admin_port), ledger_wait, held_bytes)
    built = [component(context) for component in components]
    largest = config.server.max_body
    hints = PollHintWriter(settings.redis_url)
    quarantine = QuarantineWriter(_quarantine(settings, config), context.metrics, largest)
    ingest = Ingest(
        {name: source.signing_secrets for name, source in config.sources.items()},
        *(largest, context.group_commit.commit, quarantine.offer, hints, context.metrics, context.bodies),
    )
    handlers: Any = {HTTPException: _http_error, RequestError: _request_error, Exception: _bug}
    app = Application(
        routes=[Route(PREFIX + "{address:path}", ingest), Route(PREFIX.rstrip("/"), ingest)],
        lifespan=partial(_running, context, built, (hints.close, quarantine.close)),
        exception_handlers=handlers,
    )
    if has_admin_port:
        health_routes = [
            route for component in built for route in component.routes if getattr(route, "path", "") in HEALTH
        ]
        app.admin = Starlette(routes=health_routes, exception_handlers=handlers)
    app.add(built)
    app.metrics = context.metrics
    return app


def _context(
    settings: Settings, config: Config, access: OperatorAccess, ledger_wait: float, held_bytes: int
) -> Context:
    """Return what the components share. It opens nothing."""
    metrics, background = ReceiverMetrics(), Background()
    limits = Limits(
        max_events=config.inbox.max_events,
        max_bytes=config.inbox.max_bytes,
        max_body=config.server.max_body,
        accept_weaker=config.server.accept_weaker_durability,
        shares_disk=settings.embedded_redis,
    )
    keys = EntryKeys({name: source.signing_secrets for name, source in config.sources.items()})
    group_commit = GroupCommit(settings.redis_url, _spool(settings, config), limits, metrics, keys, background)
    bodies = HeldBodies(max(held_bytes, 4 * config.server.max_body), KEY_SHARE, ALL_KEYS_SHARE)
    metrics.body_bytes = lambda: bodies.bytes
    metrics.tasks = background.states
    return Context(settings, config, group_commit, metrics, bodies, background, access, ledger_wait)


def _quarantine(settings: Settings, config: Config) -> Quarantine:
    limits = config.quarantine
    folder, reserve = settings.data / "quarantine", config.spool.reserve_bytes
    return Quarantine(folder, limits.max_count, limits.max_bytes, reserve, stays_open=True)


@asynccontextmanager
async def _running(
    context: Context,
    components: Sequence[WebComponent],
    closing: Sequence[Callable[[], Awaitable[None]]],
    _: Application,
) -> AsyncIterator[None]:
    """Open what the application needs, and close it at the end. `closing`: closes the rest."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(context.background.close)
        await context.group_commit.start()
        for close in (context.group_commit.close, *closing):
            stack.push_async_callback(close)
        for component in components:
            if component.lifespan is not None:
                await stack.enter_async_context(component.lifespan())
        yield


async def _request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return JSONResponse(error.to_dict(), error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405) and request.method == "POST" and signature.HEADER in request.headers:
        metrics: ReceiverMetrics | None = getattr(request.app, "metrics", None)
        if metrics is not None:  # not on the admin port
            metrics.count_wrong_path(request.url.path)
    code = {404: NotFound.code, 405: NotAllowed.code}.get(error.status_code, "http_error")
    return JSONResponse({"error": {"code": code, "message": error.detail}}, error.status_code, error.headers)


async def _bug(_: Request, error: Exception) -> JSONResponse:
    log.error("web.bug error=%r", error_location(error))
    return JSONResponse({"error": {"code": "internal", "message": "internal error; see the log"}}, 500)
