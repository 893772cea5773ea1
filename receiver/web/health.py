"""/healthz and /readyz: whether the process is alive, and whether an event could be stored now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from receiver.errors import Busy, RequestError
from receiver.ingest.group_commit import GroupCommit
from receiver.web.part import Context, WebPart

if TYPE_CHECKING:
    from receiver.web.parts import AllParts

# Seconds for which an answer of /readyz is reused: each new one costs a real write.
READY_FOR: Final = 1.0
# Served on each port.
HEALTH: Final = ("/healthz", "/readyz")


def health(context: Context) -> WebPart:
    """Return the routes /healthz (200 while the process runs) and /readyz.

    /readyz is 200 when a test write has succeeded, the inbox can be used, and no background task keeps failing. With
    ?all, /readyz is 200 only when, besides, a receiver, a clock and the workers of each sink are alive.
    """
    lock = asyncio.Lock()
    last: tuple[float, str | RequestError] = (float("-inf"), "")
    everything: AllParts | None = None

    async def healthz(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def readyz(request: Request) -> JSONResponse:
        nonlocal last, everything
        if "all" in request.query_params:
            await context.access.require(request)
        async with lock:
            if time.monotonic() - last[0] >= READY_FOR:
                last = (time.monotonic(), await _state_of(context))
        if "all" in request.query_params:
            from receiver.web.parts import AllParts  # with the ledger, for which the first webhook need not wait

            everything = everything or AllParts(context)
            return await everything.answer(last[1].message if isinstance(last[1], RequestError) else "")
        if isinstance(last[1], RequestError):
            raise last[1]
        return JSONResponse({"status": "ready", **_state(context.group_commit, last[1])})

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        if everything is not None:
            everything.close()

    return WebPart([Route("/healthz", healthz), Route("/readyz", readyz)], lifespan)


async def _state_of(context: Context) -> str | RequestError:
    """Return the store that takes an event now, or the error that says what is wrong."""
    try:
        store = await context.group_commit.ready()
    except RequestError as error:
        return error
    wrong = "; ".join(filter(None, (context.group_commit.spoilt, context.background.trouble())))
    return Busy(f"{wrong} (events are kept: {store})") if wrong else store


def _redis(group_commit: GroupCommit) -> str:
    found = group_commit.durability
    if group_commit.trouble and (found is None or found.strong):  # else what follows says more
        return f"not used: {group_commit.trouble}"
    return str(found) if found else "never reached"


def _state(group_commit: GroupCommit, store: str) -> dict[str, Any]:
    # The spool is always on disk before the 202; what is said of Redis holds for events that go there.
    found = group_commit.durability
    return {
        "store": store,
        "on_disk_before_202": store == "spool" or bool(found and found.strong),
        "redis": _redis(group_commit),
    }
