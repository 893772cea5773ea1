"""The threads of the API's calls: few, so that they never slow the receiving of webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Final, TypeVar

from receiver.errors import Busy

T = TypeVar("T")

# Calls that run at once, and that may wait.
THREADS: Final = 4
MAX_PENDING: Final = 64
# Seconds after which a call gets 503, although its thread may still run.
LIMIT: Final = 20.0


@contextmanager
def place_in(places: BoundedSemaphore, why: str) -> Iterator[None]:
    """Hold one of the places for calls that wait for other servers. Raises Busy with `why` when all are taken."""
    if not places.acquire(blocking=False):
        raise Busy(why, retry_after=5)
    try:
        yield
    finally:
        places.release()


class CallPool:
    """Threads, and a bound on what waits for one. `threads`: how many calls run at once."""

    def __init__(self, name: str, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._pending = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns in a thread. Raises Busy when too many wait, or it takes too long."""
        if self._pending >= MAX_PENDING:
            raise Busy("too many calls are under way")
        self._pending += 1
        try:
            async with asyncio.timeout(LIMIT):
                return await asyncio.wrap_future(self._pool.submit(work))
        except TimeoutError:
            raise Busy(f"no response within {LIMIT:g} s") from None
        finally:
            self._pending -= 1

    def close(self) -> None:
        """Stop the threads; what waits for one is not run."""
        self._pool.shutdown(wait=False, cancel_futures=True)
