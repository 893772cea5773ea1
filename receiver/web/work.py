"""Work of requests: on large bodies by a thread, and once for all requests that need the same.

The event loop serves all requests, webhooks included, so nothing of a caller's size may be computed on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, ParamSpec, TypeVar

from receiver.runtime.background import awaited

# Bytes up to which a body is worked on by the event loop: the worst of them takes a few milliseconds.
LARGEST: Final = 16 << 10

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")

# Few: threads that compute take turns with the loop, so each one more delays it as much again.
_pool: Final = ThreadPoolExecutor(2, "web-bodies")


async def off_loop(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns, called by a thread when it is about a body of more than LARGEST bytes."""
    if size <= LARGEST:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool, lambda: work(*args, **kwargs))


class SingleFlight(Generic[K, T]):
    """Runs one task for all concurrent calls with the same key. A call that is cancelled leaves the task running."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Future[T]] = {}

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `work` returns, started by this call or by an earlier one with the same key."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = awaited(work(), "web.shared")
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: K, task: asyncio.Future[T]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen here, for all calls may have been cancelled; asyncio logs unseen ones
