"""Run ledger transactions for the event loop of the web process in a few threads.

A ledger that hangs blocks only these threads; webhooks are received without the ledger. A request waits a limited time:
a transaction that takes longer is rolled back, or undone if it was committed nevertheless.
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
# Seconds that one request waits for all its transactions together.
WAIT: Final = 4.0
# Seconds within which a healthy ledger responds: a response in that time resets the wait.
PROMPT: Final = 0.5
# Seconds that running transactions have to end when the ledger is closed: one that hangs may never end.
CLOSE_WAIT = 1.0
# Maximum transactions that run or wait for a thread: one event may wake thousands of held requests.
MAX_PENDING = 10_000

log = logging.getLogger("runhook.ledger")


class _Waited:
    """The seconds that a request has waited already."""

    seconds = 0.0


_waited: ContextVar[_Waited | None] = ContextVar("waited", default=None)


def limit_waits() -> None:
    """Limit how long this task, and the tasks it starts, wait for a hanging ledger in total."""
    _waited.set(_Waited())


class _GivenUp(Exception):
    """The caller no longer waits for the transaction, which is rolled back."""


class AsyncLedger:
    """One ledger. Its methods raise LedgerUnavailable, also if too many transactions wait already.

    `wait`: seconds that one request waits for all its transactions together. `last_wait`: seconds that each later one
    has once these are used up.
    """

    def __init__(self, ledger: Ledger, wait: float = WAIT, last_wait: float = 0.2) -> None:
        self._ledger = ledger
        self._wait, self._last_wait = wait, last_wait
        self._pool = ThreadPoolExecutor(THREADS, "submit-ledger")
        self._pending: set[Future[Any]] = set()
        self._hung: set[Future[Any]] = set()

    def now(self) -> float:
        """Return the database's time, seconds since the epoch; before the first transaction the host's."""
        return self._ledger.known_now()

    async def read(self, work: Callable[[Connection], T], *, share: float = 1.0) -> T:
        """Return the result of `work`. Raises LedgerUnavailable, also after this share of the wait."""
        return await self._within_limit(self._start(self._ledger.read, work), share)

    async def write(
        self, work: Callable[[Connection], T], *, undo: Callable[[Connection], object] | None = None, share: float = 1.0
    ) -> T:
        """Return the result of `work`, once it is committed.

        Raises LedgerUnavailable after a share of the wait, and rolls the transaction back as soon as possible. If
        it was committed at that very moment, `undo` runs in its own transaction.
        """
        given_up = threading.Event()

        def until_given_up(connection: Connection) -> T:
            result = work(connection)
            if given_up.is_set():
                raise _GivenUp
            return result

        future = self._start(self._ledger.write, until_given_up)
        try:
            return await self._within_limit(future, share)
        except (LedgerUnavailable, asyncio.CancelledError):
            given_up.set()
            if undo is not None:
                future.add_done_callback(lambda done: self._undo_if_committed(done, undo))
            raise

    async def write_patiently(self, work: Callable[[Connection], T]) -> T:
        """Return the result of `work`, once it is committed, however long that takes. No response may wait for it."""
        return await asyncio.wrap_future(self._start(self._ledger.write, work))

    def _start(
        self, transaction: Callable[[Callable[[Connection], T]], T], work: Callable[[Connection], T]
    ) -> Future[T]:
        if len(self._pending) >= MAX_PENDING:
            raise LedgerUnavailable("too many calls wait for the ledger")
        if len(self._hung) >= THREADS:
            raise LedgerUnavailable("the ledger does not respond")
        try:
            future = self._pool.submit(transaction, work)
        except RuntimeError:  # an undo after the end
            raise LedgerUnavailable("the process is stopping") from None
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    async def _within_limit(self, future: Future[T], share: float) -> T:
        waited = _waited.get() or _Waited()
        limit, began = max(self._last_wait, self._wait - waited.seconds) * share, time.monotonic()
        try:
            async with asyncio.timeout(limit):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if not future.done():  # it has a thread; one without a thread is already cancelled
                self._hung.add(future)
                future.add_done_callback(self._hung.discard)
            raise LedgerUnavailable(f"no answer within {limit:g} s") from None
        finally:
            seconds = time.monotonic() - began
            prompt = seconds < PROMPT and future.done() and not future.cancelled()
            waited.seconds = 0.0 if prompt else waited.seconds + seconds

    def _undo_if_committed(self, done: Future[Any], undo: Callable[[Connection], object]) -> None:
        """Undo a given-up transaction, in its thread. An earlier COMMIT of it may have succeeded without a reply."""
        if done.cancelled() or not isinstance(done.exception(), _GivenUp | None):
            return
        try:
            self._ledger.write(undo)
        except (LedgerUnavailable, LedgerDataError) as trouble:
            log.error("ledger.not_undone ledger=%s", trouble)

    async def close(self) -> None:
        """Stop the threads and close the connections, once running transactions have ended or CLOSE_WAIT is over."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if pending := [asyncio.wrap_future(each) for each in self._pending]:
            for each in pending:  # asyncio logs exceptions that are never read
                each.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait(pending, timeout=CLOSE_WAIT)
        self._ledger.close()
