"""What a module adds to the web application: routes, and what it opens and closes with the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.errors import NoKey, NotFound
from receiver.ingest.group_commit import GroupCommit
from receiver.ingest.held_bodies import HeldBodies
from receiver.ledger.database.async_ledger import WAIT
from receiver.runtime.background import Background
from receiver.telemetry.receiver import ReceiverMetrics

# The ASGI extension that resets the connection of a response that can't be completed. Only Runhook's server has it.
ABORT: Final = "runhook.abort"
# The extension of the ASGI scope that says that a request came to the admin port.
ADMIN: Final = "runhook.admin"


async def _no_keys(_: Request) -> None:
    raise NoKey("this is served only on the admin port, which is off; start `runhook serve --admin-port`")


class OperatorAccess:
    """Decide who may see what is for operators: who reaches the admin port; without one, the holder of a key.

    Loopback proves nothing: behind a proxy on the same host, all requests come from there. `check_key` raises
    RequestError for a key without operator rights.
    """

    def __init__(self, has_admin_port: bool) -> None:
        self.has_admin_port = has_admin_port
        self.check_key: Callable[[Request], Awaitable[None]] = _no_keys

    async def require(self, request: Request) -> None:
        """Return where `request` may see what is for operators. Raises NotFound on the public port beside an admin
        port, and what `check_key` raises."""
        if is_admin(request.scope):
            return
        if self.has_admin_port:
            raise NotFound("there is nothing here")
        await self.check_key(request)


def is_admin(scope: Any) -> bool:
    """Return whether a request came to the admin port."""
    return ADMIN in scope.get("extensions", ())


class Context(NamedTuple):
    """What the components share. `ledger_wait`: seconds that a request waits for the ledger in all."""

    settings: Settings
    config: Config
    group_commit: GroupCommit
    metrics: ReceiverMetrics
    bodies: HeldBodies
    background: Background
    access: OperatorAccess
    ledger_wait: float = WAIT


class WebComponent(NamedTuple):
    """`routes`, what they need, and how they stop. `lifespan`: entered at start-up, left at shutdown.

    `admin`: routes for operators. Where there is an admin port they are there alone.

    `stop`: called when the server begins to stop, before it waits for requests: held requests must end now.
    """

    routes: Sequence[BaseRoute] = ()
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    stop: Callable[[], None] = lambda: None
    admin: Sequence[BaseRoute] = ()


class _NextRoute(Response):
    """The answer of the next route that matches, after the one which was asked first."""

    def __init__(self, passed_by: BaseRoute) -> None:
        super().__init__()
        self._passed_by = passed_by

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        routes = scope["router"].routes
        for route in routes[routes.index(self._passed_by) + 1 :]:
            match, child = route.matches(scope)
            if match is Match.FULL:
                scope.update(child)
                await route.handle(scope, receive, send)
                return
        await scope["router"].not_found(scope, receive, send)


def pass_on(request: Request) -> Response:
    """Return the answer of the next route that matches. The request's body must not have been read."""
    routes = request.scope["router"].routes
    endpoint = request.scope["endpoint"]
    return _NextRoute(next(each for each in routes if getattr(each, "endpoint", None) is endpoint))
