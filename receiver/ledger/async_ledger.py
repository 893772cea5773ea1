"""The ledger for the event loop of the web process: transactions run in a few threads of their own.

A locked ledger blocks these threads and what waits for them; the receiving of webhooks uses no ledger and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from receiver.ledger import Connection, Ledger, LedgerUnavailable

T = TypeVar("T")

THREADS = 8
# Seconds that running transactions have to end when the ledger is closed: one that hangs may never answer.
CLOSE_WAIT = 1.0
# Transactions that may run or wait for a thread. So many, because one event may wake thousands of held requests.
MAX_PENDING = 10_000


class AsyncLedger:
    """One ledger. Its methods raise LedgerUnavailable, also when too many transactions wait already."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._pool = ThreadPoolExecutor(THREADS, "submit-ledger")
        self._pending: set[Future[Any]] = set()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` reads."""
        return await self._run(self._ledger.read, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, once it is committed."""
        return await self._run(self._ledger.write, work)

    async def _run(self, transaction: Callable[[Callable[[Connection], T]], T], work: Callable[[Connection], T]) -> T:
        if len(self._pending) >= MAX_PENDING:
            raise LedgerUnavailable("too many calls wait for the ledger")
        future = self._pool.submit(transaction, work)
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Stop the threads and close the connections, once running transactions have ended or CLOSE_WAIT is over."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if pending := list(self._pending):
            await asyncio.wait([asyncio.wrap_future(each) for each in pending], timeout=CLOSE_WAIT)
        self._ledger.close()
