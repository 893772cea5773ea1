"""Waiting for something in the ledger to change: one look serves all who wait for it in this process.

A waiter costs a future and its request. It knows no HTTP and asks Skyvern nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Generic, TypeVar

from receiver.ledger import LedgerUnavailable

EVERY = 0.3
"""Seconds between two looks."""
AFTER_TROUBLE = 1.0

K = TypeVar("K")
V = TypeVar("V")


class TooManyWaiters(Exception):
    """As many requests are held already as may be."""


class Waiters(Generic[K, V]):
    """`look`: how things stand, all at once; it may raise LedgerUnavailable. `most`: how many may wait."""

    def __init__(
        self, look: Callable[[Collection[K]], Awaitable[Mapping[K, V]]], most: int, every: float = EVERY
    ) -> None:
        self._look = look
        self._most = most
        self._every = every
        self._waiting: dict[K, dict[asyncio.Future[V | None], V | None]] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None
        self.looks = 0
        self.stopped = False

    def __len__(self) -> int:
        return self._count

    async def change(self, key: K, known: V | None, seconds: float) -> V | None:
        """How it stands as soon as that is not as `known`; None when it is so after `seconds`, or `stop` was called.

        Raises TooManyWaiters.
        """
        if self._count >= self._most:
            raise TooManyWaiters
        if self.stopped:
            return None
        future: asyncio.Future[V | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, {})[future] = known
        self._count += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            self._count -= 1
            mine = self._waiting.get(key, {})
            mine.pop(future, None)
            if not mine:
                self._waiting.pop(key, None)

    async def until(self, key: K, over: Callable[[V], bool], seconds: float) -> V | None:
        """How it stands once that is `over`; None when it is not after `seconds`, or `stop` was called.

        Raises TooManyWaiters.
        """
        loop = asyncio.get_running_loop()
        deadline, known = loop.time() + seconds, None
        while (left := deadline - loop.time()) > 0:
            known = await self.change(key, known, left)
            if known is None or over(known):
                return known
        return None

    async def _run(self) -> None:
        """Look until nobody waits."""
        while self._waiting:
            pause = self._every
            try:
                found = await self._look(list(self._waiting))
                self.looks += 1
            except LedgerUnavailable:
                found, pause = {}, AFTER_TROUBLE
            for key, standing in found.items():
                for future, known in list(self._waiting.get(key, {}).items()):
                    if standing != known and not future.done():
                        future.set_result(standing)
            await asyncio.sleep(pause)

    def stop(self) -> None:
        """Nobody waits any longer: each is told, and whoever comes, as if its time were up."""
        self.stopped = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)

    async def close(self) -> None:
        """Look no more."""
        self.stop()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
