"""The web application: the webhook endpoint, and the routes that other modules add. Knows no sink and no ledger.

To add routes, as the submit API and /metrics do, write a function from Context to WebPart in a module of its own, and
list it in receiver.cli.serve.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.inbox_entry import EntryKeys
from receiver.errors import Busy
from receiver.ingest import durability
from receiver.ingest.endpoint import PREFIX, Ingest
from receiver.ingest.group_commit import GroupCommit, Limits
from receiver.ingest.quarantine import Quarantine, QuarantineWriter
from receiver.ingest.spool import Spool, SpoolFull, spool_trouble
from receiver.reconcile.poll_hints import PollHintWriter
from receiver.runtime.background import Background
from receiver.runtime.held_bodies import HeldBodies
from receiver.telemetry.receiver import ReceiverMetrics
from receiver.web.access import OperatorAccess, is_admin
from receiver.web.late_parts import LateParts
from receiver.web.lifespan import serve_lifespan
from receiver.web.part import HEALTH, Context, WebPart

if TYPE_CHECKING:
    from receiver.web.routes import Routes

# Bytes of bodies that may be in memory at once, over all requests, and the part of them that one key may take of what
# others leave free; and the part that all keys together may take: the rest, a body at least, is for webhooks.
HELD_BYTES: Final = 256 << 20
KEY_SHARE: Final = 0.5
KEYS_PART: Final = 0.75


class Application:
    """The ASGI application: webhooks go to `ingest`, past Starlette's routing and middleware, and all else to `routes`.

    `opened`: entered when the server starts, left when it stops. `late`: parts that may still be built.
    """

    ingest: Ingest
    metrics: ReceiverMetrics
    parts: Sequence[WebPart] = ()
    late: LateParts | None = None
    stopping = False

    def __init__(
        self, opened: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext, *, has_admin_port: bool = False
    ) -> None:
        self.opened = opened
        self._has_admin_port = has_admin_port
        self._rest: Any = self._serve

    @cached_property
    def routes(self) -> Routes:
        """All that is no webhook. Starlette is imported when somebody first asks for it."""
        from receiver.web.routes import Routes

        return Routes(self._has_admin_port)

    def trust_proxies(self, hosts: list[str] | str) -> None:
        """Take scheme and address of a client from the headers of proxies at `hosts`. A webhook needs neither."""
        self._rest = ProxyHeadersMiddleware(self._serve, hosts)

    def add(self, parts: Sequence[WebPart]) -> None:
        """Serve `parts`, after those that are there."""
        self.parts = [*self.parts, *parts]
        self.routes.add(parts)
        if self.stopping:
            for part in parts:
                part.stop()

    def stop(self) -> None:
        """Let held requests be answered. The server calls it first of all when it stops."""
        self.stopping = True
        for part in self.parts:
            part.stop()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await serve_lifespan(self.opened, receive, send)
            return
        on_admin_port = self._has_admin_port and is_admin(scope)
        if not on_admin_port and scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self.ingest(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        if self.late is not None and scope["type"] == "http":
            of_health = scope["path"] in HEALTH and not scope["query_string"]
            try:
                await self.late.wait(0 if of_health else -1)
            except Busy as error:
                from receiver.web.routes import refusal

                await refusal(error)(scope, receive, send)
                return
        await self.routes(scope, receive, send)


def check_at_start(settings: Settings, config: Config) -> str:
    """Return in one line what a 202 will mean. Raises NotStarted when an application would not start, or must not.

    Call it before the server runs: at its start-up, an ASGI server could only print a traceback.
    """
    full = ""
    spool = _spool(settings, config)
    spool.open()
    try:
        spool.check()
    except (SpoolFull, OSError) as error:
        full = spool_trouble(error)
    finally:
        spool.close()
    server = config.server
    found = durability.check_at_start(
        settings.redis_url, server.max_body, server.accept_weaker_durability, str(settings.config)
    )
    if full and (found is None or settings.embedded_redis):
        away = "Redis is away, and " if found is None else ""
        return f"no event can be kept now, and the answer is 503 until one can: {away}{full}"
    return str(found) if found else "on disk before 202: yes, in the spool (Redis is away)"


def _spool(settings: Settings, config: Config) -> Spool:
    return Spool(settings.data / "spool", config.spool.max_bytes, config.spool.reserve_bytes)


def create_app(
    settings: Settings,
    config: Config,
    parts: Sequence[Callable[[Context], WebPart]] = (),
    *,
    late: Sequence[Callable[[], Sequence[Callable[[Context], WebPart]]]] = (),
    has_admin_port: bool = False,
) -> Application:
    """Return the application with `parts`. It opens everything at ASGI start-up, and nothing before.

    `late`: import more of them, stage by stage: the first is the health of this process, the last what needs the
    ledger. They are built, in a thread, when webhooks are taken already. `has_admin_port`: routes for operators are
    served to requests that came to the admin port, and to no others.
    """
    metrics = ReceiverMetrics()
    limits = Limits(
        max_events=config.inbox.max_events,
        max_bytes=config.inbox.max_bytes,
        max_body=config.server.max_body,
        accept_weaker=config.server.accept_weaker_durability,
        shares_disk=settings.embedded_redis,
    )
    secrets = {name: source.signing_secrets for name, source in config.sources.items()}
    bodies = HeldBodies(max(HELD_BYTES, 4 * config.server.max_body), KEY_SHARE, KEYS_PART)
    metrics.bodies = lambda: (bodies.bytes, bodies.evicted)
    background = Background()
    metrics.tasks = background.states
    keys = EntryKeys(secrets)
    group_commit = GroupCommit(settings.redis_url, _spool(settings, config), limits, metrics, keys, background)
    context = Context(settings, config, group_commit, metrics, bodies, background, OperatorAccess(has_admin_port))
    built = [part(context) for part in parts]
    store = Quarantine(
        settings.data / "quarantine",
        config.quarantine.max_count,
        config.quarantine.max_bytes,
        config.spool.reserve_bytes,
    )

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(background.close)
            await group_commit.start()
            stack.push_async_callback(group_commit.close)
            for closing in (hints.close, quarantine.close, app.ingest.close):
                stack.push_async_callback(closing)
            for part in built:
                if part.lifespan is not None:
                    await stack.enter_async_context(part.lifespan())
            if app.late is not None:
                await stack.enter_async_context(app.late.lifespan())
            yield

    def build(stage: Callable[[], Sequence[Callable[[Context], WebPart]]]) -> list[WebPart]:
        _ = app.routes  # imported in this thread, not by the event loop
        return [part(context) for part in stage()]

    app = Application(opened, has_admin_port=has_admin_port)
    if built:
        app.add(built)
    if late:
        app.late = LateParts([partial(build, stage) for stage in late], app.add, background)
    app.metrics = metrics
    hints = PollHintWriter(settings.redis_url, background)
    quarantine = QuarantineWriter(store, metrics, config.server.max_body)
    app.ingest = Ingest(secrets, config.server.max_body, group_commit, quarantine, hints, metrics, bodies)
    return app
