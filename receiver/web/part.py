"""What a module adds to the web application: routes, and what it opens and closes with the application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.ingest.group_commit import GroupCommit
from receiver.ingest.held_bodies import HeldBodies
from receiver.runtime.background import Background
from receiver.telemetry.receiver import ReceiverMetrics
from receiver.web.access import OperatorAccess

# The ASGI extension that resets the connection of a response that can't be completed. Only Runhook's server has it.
ABORT: Final = "runhook.abort"


class Context(NamedTuple):
    """What the application shares with its parts."""

    settings: Settings
    config: Config
    group_commit: GroupCommit
    metrics: ReceiverMetrics
    bodies: HeldBodies
    background: Background
    access: OperatorAccess


class WebPart(NamedTuple):
    """`routes`, what they need, and how they stop. `lifespan`: entered at start-up, left at shutdown.

    `admin`: routes for operators. Where there is an admin port they are there alone.

    `stop`: called when the server begins to stop, before it waits for requests: those that are held must end now.
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
