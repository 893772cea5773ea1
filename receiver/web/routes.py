"""What Starlette serves: every route but that of webhooks, on the port of webhooks and on the admin port.

Apart from `app`, for the first webhook needs no Starlette, which takes long to import.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from receiver.errors import NotAllowed, NotFound, RequestError
from receiver.runtime.process import error_location
from receiver.web.access import is_admin
from receiver.web.part import HEALTH, WebPart

log = logging.getLogger("runhook.ingest")


class Routes:
    """The routes of parts. `has_admin_port`: those for operators are served there, and nowhere else."""

    def __init__(self, has_admin_port: bool) -> None:
        self._public = Starlette(exception_handlers=_HANDLERS)
        self._admin = Starlette(exception_handlers=_HANDLERS) if has_admin_port else None

    def add(self, parts: Sequence[WebPart]) -> None:
        """Serve the routes of `parts`, after those that are there.

        Those for operators come first: /api/v1 is Skyvern's too, and what is no route of ours goes on to it.
        """
        routes = [route for part in parts for route in part.routes]
        for_operators = self._public if self._admin is None else self._admin
        for_operators.router.routes += [route for part in parts for route in part.admin]
        self._public.router.routes += routes
        if self._admin is not None:
            self._admin.router.routes += [route for route in routes if getattr(route, "path", "") in HEALTH]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        app = self._admin if self._admin is not None and is_admin(scope) else self._public
        await app(scope, receive, send)


def refusal(error: RequestError) -> JSONResponse:
    """Return the answer that says why a request is refused."""
    return JSONResponse(error.to_dict(), error.status, error.headers)


async def _request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    return refusal(error)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: NotFound.code, 405: NotAllowed.code}.get(error.status_code, "http_error")
    return JSONResponse({"error": {"code": code, "message": error.detail}}, error.status_code, error.headers)


async def _bug(_: Request, error: Exception) -> JSONResponse:
    log.error("web.bug error=%r", error_location(error))
    return JSONResponse({"error": {"code": "internal", "message": "a bug of ours; it is in the log"}}, 500)


_HANDLERS: Final[dict[Any, Any]] = {HTTPException: _http_error, RequestError: _request_error, Exception: _bug}
