"""One query for all requests that wait for a change. A waiting request costs a future."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Generic, TypeVar

from receiver.ledger import LedgerUnavailable
from receiver.runtime.background import Background

log = logging.getLogger("runhook.submit")

K = TypeVar("K")
V = TypeVar("V")


class LongPoll(Generic[K, V]):
    """`query`: the current values of all these keys; it may raise LedgerUnavailable. `pause`: seconds
    between two queries; `retry_pause`: when the ledger was unavailable."""

    def __init__(
        self,
        query: Callable[[Collection[K]], Awaitable[Mapping[K, V]]],
        background: Background | None = None,
        pause: float = 0.3,
        retry_pause: float = 1.0,
    ) -> None:
        self._background = background or Background()
        self._pause, self._retry_pause = pause, retry_pause
        self._query = query
        self._waiting: dict[K, dict[asyncio.Future[V | None], V | None]] = {}
        self._task: asyncio.Task[None] | None = None
        self.stopped = False

    async def wait_for_change(self, key: K, last: V | None, seconds: float) -> V | None:
        """Return the value of `key` once it is another than `last`; None after `seconds`, or when it is stopped."""
        if self.stopped:
            return None
        future: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, {})[future] = last
        if self._task is None or self._task.done():
            self._task = self._background.keep("submit.waits_for_runs", self._run)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            futures = self._waiting.get(key, {})
            futures.pop(future, None)
            if not futures:
                self._waiting.pop(key, None)

    async def wait_until(self, key: K, condition: Callable[[V], bool], seconds: float) -> V | None:
        """Return the value of `key` once `condition` holds for it; None after `seconds`, or when `stop` was called."""
        loop = asyncio.get_running_loop()
        deadline, value = loop.time() + seconds, None
        while (left := deadline - loop.time()) > 0:
            value = await self.wait_for_change(key, value, left)
            if value is None or condition(value):
                return value
        return None

    async def _run(self) -> None:
        """Query until no request waits."""
        while self._waiting:
            pause = self._pause
            try:
                values = await self._query(list(self._waiting))
            except LedgerUnavailable:
                values, pause = {}, self._retry_pause
            except Exception:  # else all who wait would hang until their time is up
                log.exception("submit.query runs=%d", len(self._waiting))
                values, pause = {}, self._retry_pause
            for key, value in values.items():
                for future, known in list(self._waiting.get(key, {}).items()):
                    if value != known and not future.done():
                        future.set_result(value)
            await asyncio.sleep(pause)

    def stop(self) -> None:
        """End each wait, and all later ones, as if its time were up."""
        self.stopped = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    async def close(self) -> None:
        """Stop, and end the task that queries."""
        self.stop()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
