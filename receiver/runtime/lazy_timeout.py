"""A time limit for what is done very often and hardly ever takes long. Its timer is not made anew for each.

To make a timer and to cancel it costs a good part of what a lone commit costs. This one lets its timer go off, and then
looks whether anything is overdue.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class LazyTimeout:
    """Like `asyncio.timeout`, for one event loop, and again and again: `with limit(seconds):`, one block at a time."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._seconds = self._until = 0.0
        self._cancelling = 0
        self._expired = False

    def __call__(self, seconds: float) -> Self:
        """Limit the next block to `seconds`."""
        self._seconds = seconds
        return self

    def __enter__(self) -> None:
        """Begin the block."""
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        assert self._task is not None, "in a task"
        self._cancelling = self._task.cancelling()
        self._until = loop.time() + self._seconds
        if self._timer is None or self._timer.when() > self._until:
            self._set(loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the block. Raises TimeoutError where it took too long, and nobody else has cancelled it."""
        task, self._task = self._task, None
        if self._expired and task is not None:
            self._expired = False
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self.close()
        self._timer = loop.call_at(self._until, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._task is None or self._expired:
            return
        if loop.time() < self._until:
            self._set(loop)
        else:
            self._expired = True
            self._task.cancel()

    def close(self) -> None:
        """Drop the timer, which may have nothing to watch any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
