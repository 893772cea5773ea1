"""Who may see what is for operators alone: whoever reaches the admin port. Knows no key."""

from __future__ import annotations

from starlette.requests import Request

from receiver.errors import NotFound
from receiver.web.part import ADMIN, Context


def check_operator(context: Context, request: Request) -> None:
    """Return where `request` may see what is for operators. Raises NotFound on the public port beside an admin port."""
    if context.has_admin_port and ADMIN not in request.scope.get("extensions", ()):
        raise NotFound("there is nothing here")
