"""Waiting for runs to change: one look at the ledger serves all who wait in this process.

A waiter costs a future and its request. It knows no HTTP and asks Skyvern nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping

from receiver.ledger import LedgerUnavailable
from receiver.ledger.results import RunKey, Standing

EVERY = 0.3
"""Seconds between two looks."""
AFTER_TROUBLE = 1.0

Look = Callable[[Collection[RunKey]], Awaitable[Mapping[RunKey, Standing]]]


class TooManyWaiters(Exception):
    """As many requests are held already as may be."""


class Waiters:
    """`look`: how runs stand, all at once; it may raise LedgerUnavailable. `most`: how many may wait."""

    def __init__(self, look: Look, most: int, every: float = EVERY) -> None:
        self._look = look
        self._most = most
        self._every = every
        self._waiting: dict[RunKey, dict[asyncio.Future[Standing], Standing | None]] = {}
        self._count = 0
        self._task: asyncio.Task[None] | None = None
        self.looks = 0

    async def change(self, key: RunKey, known: Standing | None, seconds: float) -> Standing | None:
        """How the run stands as soon as that is not as `known`; None when it is so after `seconds`.

        Raises TooManyWaiters.
        """
        if self._count >= self._most:
            raise TooManyWaiters
        future: asyncio.Future[Standing] = asyncio.get_running_loop().create_future()
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

    async def final(self, key: RunKey, seconds: float) -> Standing | None:
        """How the run stands once it is final; None when it is not after `seconds`. Raises TooManyWaiters."""
        loop = asyncio.get_running_loop()
        deadline, known = loop.time() + seconds, None
        while (left := deadline - loop.time()) > 0:
            known = await self.change(key, known, left)
            if known is None or known.final:
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

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
