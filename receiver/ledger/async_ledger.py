"""The ledger for the event loop of the web process: transactions run in a few threads of their own.

A ledger that hangs blocks these threads; the receiving of webhooks uses no ledger and goes on. Nobody waits for long: a
transaction that takes too long is given up, which means that it is rolled back if it can be, and undone if it was
committed all the same.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final, TypeVar

from receiver.ledger import Connection, Ledger, LedgerDataError, LedgerUnavailable

T = TypeVar("T")

THREADS = 8
# Seconds that one request waits for transactions, all of them together.
WAIT: Final = 4.0
# Seconds that a further transaction has after that.
LAST_WAIT: Final = 0.2
# Seconds within which the answer of a ledger that does not hang comes: then the waiting begins anew.
PROMPT: Final = 0.5
# Seconds that running transactions have to end when the ledger is closed: one that hangs may never answer.
CLOSE_WAIT = 1.0
# Transactions that may run or wait for a thread. So many, because one event may wake thousands of held requests.
MAX_PENDING = 10_000

log = logging.getLogger("runhook.ledger")


class _Patience:
    """What is left of a request's WAIT."""

    def __init__(self) -> None:
        self.left = WAIT

    def spend(self, seconds: float, *, answered: bool) -> None:
        self.left = WAIT if answered and seconds < PROMPT else max(LAST_WAIT, self.left - seconds)


_patience: ContextVar[_Patience | None] = ContextVar("patience", default=None)


def limit_waits() -> None:
    """Let all that this task, and those which it starts, wait for a ledger that hangs be WAIT seconds in all."""
    _patience.set(_Patience())


class _GivenUp(Exception):
    """Nobody waits for the transaction any more: it is rolled back."""


class AsyncLedger:
    """One ledger. Its methods raise LedgerUnavailable, also when too many transactions wait already."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._pool = ThreadPoolExecutor(THREADS, "submit-ledger")
        self._pending: set[Future[Any]] = set()
        self._hung: set[Future[Any]] = set()

    def now(self) -> float:
        """Return the database's time, seconds since the epoch; before the first transaction the host's."""
        return self._ledger.known_now()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` reads. Raises LedgerUnavailable too when that takes longer than WAIT seconds."""
        return await self._within_limit(self._start(self._ledger.read, work))

    async def write(self, work: Callable[[Connection], T], *, undo: Callable[[Connection], object] | None = None) -> T:
        """Return what `work` returns, once it is committed.

        After WAIT seconds LedgerUnavailable is raised, and the transaction rolled back as soon as it can be. It may
        have been committed at that very moment: then `undo` is run, in a transaction of its own.
        """
        given_up = threading.Event()

        def until_given_up(connection: Connection) -> T:
            result = work(connection)
            if given_up.is_set():
                raise _GivenUp
            return result

        future = self._start(self._ledger.write, until_given_up)
        try:
            return await self._within_limit(future)
        except (LedgerUnavailable, asyncio.CancelledError):
            given_up.set()
            if undo is not None:
                future.add_done_callback(lambda done: self._undo_if_committed(done, undo))
            raise

    async def write_patiently(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, once it is committed, however long that takes. Nobody's reply may wait for it."""
        return await asyncio.wrap_future(self._start(self._ledger.write, work))

    def _start(
        self, transaction: Callable[[Callable[[Connection], T]], T], work: Callable[[Connection], T]
    ) -> Future[T]:
        if len(self._pending) >= MAX_PENDING:
            raise LedgerUnavailable("too many calls wait for the ledger")
        if len(self._hung) >= THREADS:
            raise LedgerUnavailable("the ledger hangs")
        try:
            future = self._pool.submit(transaction, work)
        except RuntimeError:  # an undo after the end
            raise LedgerUnavailable("the process is being stopped") from None
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    async def _within_limit(self, future: Future[T]) -> T:
        patience = _patience.get() or _Patience()
        limit, began = patience.left, time.monotonic()
        try:
            async with asyncio.timeout(limit):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if not future.done():  # it has a thread; one that had none yet is cancelled by now
                self._hung.add(future)
                future.add_done_callback(self._hung.discard)
            raise LedgerUnavailable(f"no answer within {limit:g} s") from None
        finally:
            patience.spend(time.monotonic() - began, answered=future.done() and not future.cancelled())

    def _undo_if_committed(self, done: Future[Any], undo: Callable[[Connection], object]) -> None:
        """Called in the thread of a transaction that was given up."""
        if done.cancelled() or done.exception() is not None:
            return
        try:
            self._ledger.write(undo)
        except (LedgerUnavailable, LedgerDataError) as trouble:
            log.error("ledger.not_undone ledger=%s", trouble)

    async def close(self) -> None:
        """Stop the threads and close the connections, once running transactions have ended or CLOSE_WAIT is over."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if pending := [asyncio.wrap_future(each) for each in self._pending]:
            for each in pending:  # asyncio logs what nobody has seen
                each.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait(pending, timeout=CLOSE_WAIT)
        self._ledger.close()
