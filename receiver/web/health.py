"""/healthz and /readyz: whether the process is alive, and whether an event could be stored now. And its heartbeat.

/readyz?all: whether every process of Runhook is alive, as one address to watch. /readyz alone is about this process,
for a load balancer: a stopped clock must not take the receivers out of it.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from receiver.checks import board
from receiver.checks.heartbeat import Heartbeat
from receiver.checks.processes import last_seen
from receiver.config.loader import file_hash
from receiver.domain import liveness
from receiver.domain.callback_url import STARS
from receiver.domain.liveness import RECEIVER
from receiver.errors import Busy, RequestError
from receiver.ingest.group_commit import GroupCommit
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.migrate import schema_trouble
from receiver.web.component import Context, WebComponent

# Seconds for which an answer of /readyz is reused: each new one costs a real write.
READY_FOR: Final = 1.0
# Seconds for which what was read is reused, so that no client can turn requests into load on the ledger.
PROCESSES_FOR: Final = 3.0
# Seconds after which a ledger that does not answer is given up: who asks for /readyz?all or /metrics, such as
# Prometheus, waits 10 s, and must hear of it when the database hangs.
LEDGER_WITHIN: Final = 4.0
# Seconds between two steps of the event loop that are reported to the heartbeat; and how many depths of the inbox
# are kept.
_STEP_EVERY: Final = 1.0
_DEPTHS: Final = 15
# Served on each port.
HEALTH: Final = ("/healthz", "/readyz")


def health(context: Context) -> WebComponent:
    """Return the routes /healthz (200 while the process runs) and /readyz.

    /readyz is 200 when a test write has succeeded, and no background task keeps failing. With
    ?all, /readyz is 200 only when, besides, a receiver, a clock and the workers of each sink are alive.
    """
    readiness, everything = _Readiness(context), AllProcesses(context)

    async def healthz(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def readyz(request: Request) -> JSONResponse:
        if "all" in request.query_params:
            await context.access.require(request)
            state = await readiness.state()
            return await everything.answer(state.message if isinstance(state, RequestError) else "")
        state = await readiness.state()
        if isinstance(state, RequestError):
            raise state
        return JSONResponse({"status": "ready", **_state(context.group_commit, state)})

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        everything.close()

    return WebComponent([Route("/healthz", healthz), Route("/readyz", readyz)], lifespan)


class _Readiness:
    """The store that takes an event now, or the error that says what is wrong; as of READY_FOR seconds ago at most."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()
        self._state: str | RequestError = ""
        self._read_at = float("-inf")

    async def state(self) -> str | RequestError:
        """Return the state. Concurrent calls wait for one test write."""
        async with self._lock:
            if time.monotonic() - self._read_at >= READY_FOR:
                self._read_at = time.monotonic()
                self._state = await self._read()
            return self._state

    async def _read(self) -> str | RequestError:
        try:
            store = await self._context.group_commit.ready()
        except RequestError as error:
            return error
        wrong = self._context.background.trouble()
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


def _masked(path: str) -> str:
    """Return a path as it was sent, without what may be the secret token of a callback URL, wherever that is."""
    return re.sub(r"sub_[0-9a-f]+", STARS, quote(path, errors="replace"))


def presence(context: Context) -> WebComponent:
    """Return the heartbeat of this receiver, as a component without routes."""

    data_id = ""
    depths = deque[tuple[float, int]](maxlen=_DEPTHS)

    def details() -> dict[str, Any]:
        nonlocal data_id
        data_id = data_id or board.directory_id(context.settings.data)
        commit, metrics = context.group_commit, context.metrics
        free = None
        with suppress(OSError):
            free = shutil.disk_usage(context.settings.data).free
        return {
            "url": metrics.url,
            "store": commit.store,
            "trouble": commit.trouble,
            "redis_down": commit.down_since,
            "inbox": depths[0] if depths else None,  # some seconds ago, so that status can compute a rate
            "refusing": commit.refusing,
            "refused": [metrics.refused, metrics.refused_at],
            "misdirected": [metrics.misdirected, _masked(metrics.misdirected_path), metrics.misdirected_at],
            "failing": context.background.trouble(),
            "spool_events": metrics.spool_events,
            "spool_bytes": metrics.spool_bytes,
            "data": str(context.settings.data.absolute()),
            "data_id": data_id,
            "free_bytes": free,
        }

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        heartbeat = Heartbeat(
            context.settings, RECEIVER, file_hash(context.settings.config), details=details, watched=True
        )

        async def steps() -> None:
            store = context.group_commit.store
            while True:
                heartbeat.step()
                depths.append((time.time(), context.metrics.inbox_events))
                if context.group_commit.store != store:
                    store = context.group_commit.store
                    heartbeat.report()
                await asyncio.sleep(_STEP_EVERY)

        context.background.keep("heartbeat", steps)
        heartbeat.start()
        try:
            yield
        finally:
            await asyncio.to_thread(heartbeat.stop)

    return WebComponent(lifespan=lifespan)


class AllProcesses:
    """What /readyz?all answers. Reads at most every PROCESSES_FOR seconds; each reader waits for a current one."""

    def __init__(self, context: Context) -> None:
        self._expected = liveness.expected(context.config.destinations)
        self._ledger = Ledger(context.settings.database_url)
        self._group_commit = context.group_commit
        self._lock = asyncio.Lock()
        self._wrong: dict[str, str] = {}
        self._read_at = float("-inf")

    async def answer(self, unready: str) -> JSONResponse:
        """Return 200, or 503 with the names of what is missing. `unready`: why no event can be kept now, or ""."""
        async with self._lock:
            if time.monotonic() - self._read_at > PROCESSES_FOR:
                self._wrong = await asyncio.to_thread(self._read)
                self._read_at = time.monotonic()
        wrong = {"receiver": unready, "redis": self._group_commit.trouble, **self._wrong}
        wrong = {name: text for name, text in wrong.items() if text}
        if not wrong:
            return JSONResponse({"status": "ready", "parts": self._expected})
        message = f"not ready: {', '.join(sorted(wrong))}; see `runhook status`"
        return JSONResponse(
            {"error": {"code": "unavailable", "message": message}, "wrong": wrong}, 503, {"Retry-After": "10"}
        )

    def _read(self) -> dict[str, str]:
        """Return the roles that no process has, or why the ledger, which knows them, cannot be read."""
        try:
            if trouble := schema_trouble(self._ledger, LEDGER_WITHIN):
                return {"ledger": trouble.what}
            seen = board.list_processes(self._ledger, LEDGER_WITHIN)
        except LedgerUnavailable as error:
            return {"ledger": str(error)}
        return {role: last_seen(last) for role, last in liveness.missing(seen, self._expected).items()}

    def close(self) -> None:
        """Close the connections."""
        self._ledger.close()
