"""The ledger, for the event loop of the web process: calls run in a few threads of their own.

A locked ledger holds these threads and what waits for them; the webhooks know no ledger and go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from receiver.ledger import Connection, Ledger, LedgerUnavailable

T = TypeVar("T")

THREADS = 8
CLOSE_WAIT = 1.0
"""Seconds that calls under way have to end when the store is closed: a ledger that hangs may never answer."""
MOST_WAITING = 10_000
"""Calls that may wait for a thread: a burst of waiters that all hear of the same moment is no trouble yet."""


class AsyncLedger:
    """One ledger. Its methods raise LedgerUnavailable, also when too many calls wait already."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._pool = ThreadPoolExecutor(THREADS, "submit-ledger")
        self._calls: set[Future[Any]] = set()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds."""
        return await self._run(self._ledger.read, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once it is committed."""
        return await self._run(self._ledger.write, work)

    async def _run(self, call: Callable[[Callable[[Connection], T]], T], work: Callable[[Connection], T]) -> T:
        if len(self._calls) >= MOST_WAITING:
            raise LedgerUnavailable("too many calls wait for the ledger")
        future = self._pool.submit(call, work)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Let go of the threads and the connections. A call that nobody awaits any more may still be using one."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if calls := list(self._calls):
            await asyncio.wait([asyncio.wrap_future(each) for each in calls], timeout=CLOSE_WAIT)
        self._ledger.close()
