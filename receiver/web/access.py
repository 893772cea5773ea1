"""Who may see what is for operators alone: who reaches the admin port; without one, the holder of a key. Knows no key.

Loopback proves nothing: behind a proxy on the same host, all requests come from there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request

from receiver.errors import NoKey, NotFound

# The part of the ASGI scope that says that a request came to the admin port.
ADMIN: Final = "runhook.admin"


async def _no_keys(_: Request) -> None:
    raise NoKey("this is served only on the admin port, which is off; start `runhook serve --admin-port`")


class OperatorAccess:
    """Decide who is an operator. `check_key` raises RequestError for a key without operator rights."""

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
