"""The ledger, for the event loop of the web process: calls run in a few threads of their own.

A locked ledger holds these threads and what waits for them; the webhooks know no ledger and go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from receiver.ledger import Connection, Ledger, LedgerUnavailable

T = TypeVar("T")

THREADS = 8
MOST_WAITING = 10_000
"""Calls that may wait for a thread: a burst of waiters that all hear of the same moment is no trouble yet."""


class Store:
    """One ledger. Its methods raise LedgerUnavailable, also when too many calls wait already."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._pool = ThreadPoolExecutor(THREADS, "submit-ledger")
        self._waiting = 0

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` finds."""
        return await self._run(self._ledger.read, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once it is committed."""
        return await self._run(self._ledger.write, work)

    async def _run(self, call: Callable[[Callable[[Connection], T]], T], work: Callable[[Connection], T]) -> T:
        if self._waiting >= MOST_WAITING:
            raise LedgerUnavailable("too many calls wait for the ledger")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, call, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let go of the threads and the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._ledger.close()
