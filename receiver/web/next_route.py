"""A route that matches, and yet leaves the request to the next one that does."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send


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
