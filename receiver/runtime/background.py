"""Run background tasks and threads, so that none of them ends silently.

The only module of the receiver that starts tasks and threads:

    Background.keep     work that must continue until it returns: after an error it is logged and started again
    Background.spawn    work without a waiting caller: an error is logged and counted
    awaited             a step that its caller awaits: its errors are the caller's
    keep_thread         as `keep`, in a thread
    start_thread        a thread; an error is logged
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from receiver.errors import error_location

# Seconds of life after which a process's end is not counted together with those before.
STABLE_AFTER: Final = 10.0
# Number of failures in a row after which a task counts as failing.
KEEPS_FAILING: Final = 3
_MAX_DELAY: Final = 5.0  # seconds before a restart

log = logging.getLogger("runhook.background")

T = TypeVar("T")


def respawn_delay(failures: int) -> float:
    """Return the seconds to wait before a process is started again after `failures` in a row: none after the first."""
    return 0.0 if failures <= 1 else min(_MAX_DELAY, 0.1 * 2.0 ** (failures - 1))


class Restarts:
    """The unexpected ends of one process or task, and when it is started again.

    `due`: from when on, by time.monotonic(). `failures`: ends in a row; `total`: all ends. `reason`: of the last one.
    """

    def __init__(self, started_at: float = 0.0) -> None:
        self.started_at = started_at
        self.due = 0.0
        self.failures = 0
        self.total = 0
        self.reason = ""

    def failed(self, reason: str, now: float, *, stable: bool = True) -> bool:
        """Count an end and set `due`. Return whether to log `reason`: when it is new, then now and then.

        `stable`: false for a process that never got to its work, however long it lived.
        """
        self.total += 1
        self.failures = 1 if stable and now - self.started_at > STABLE_AFTER else self.failures + 1
        self.due = now + respawn_delay(self.failures)
        new, self.reason = reason != self.reason, reason
        return new or self.failures == 1 or self.failures % 12 == 0


class TaskState(Restarts):
    """The state of the task of one name. `errors`: of tasks that are not started again. `reason`: type and place of the
    last error, never a text that may hold a payload."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.alive = False
        self.errors = 0

    def crashed(self, error: BaseException, now: float) -> float:
        """Count and log an error of a task that is started again. Return the seconds until then."""
        self.alive = False
        news = self.failed(error_location(error), now)
        pause = self.due - now
        if news:
            log.error(
                "background.failed task=%s error=%r restarts=%d again_in=%.1fs",
                *(self.name, self.reason, self.total, pause),
            )
        log.debug("background.failed task=%s in full", self.name, exc_info=error)
        return pause

    def trouble(self, now: float) -> str:
        """Return that the task keeps failing, and why; "" for one that has not failed, or has run well since."""
        recovered = self.alive and now - self.started_at >= STABLE_AFTER
        if self.failures < KEEPS_FAILING or recovered:
            return ""
        return f"the background task {self.name} keeps failing: {self.reason}"


class Background:
    """The background tasks of one event loop, by name. Names are fixed words: metrics have them as labels.

    `clock`: monotonic. `pauses`: false to restart at once.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, pauses: bool = True) -> None:
        self._clock = clock
        self._pauses = pauses
        self._states: dict[str, TaskState] = {}
        self._kept: dict[str, asyncio.Task[None]] = {}
        self._spawned: set[asyncio.Task[Any]] = set()

    def keep(self, name: str, body: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run `body()` until it returns, and again after it has ended by an error. Once at a time under each name.

        Returns the task, which its owner may cancel.
        """
        running = self._kept.get(name)
        if running is None or running.done():
            running = self._kept[name] = asyncio.create_task(self._keep(self._state(name), body), name=name)
        return running

    async def _keep(self, state: TaskState, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            state.alive, state.started_at = True, self._clock()
            try:
                await body()
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    state.alive = False
                    raise
                cause: BaseException = error  # of something that it waited for
            except Exception as error:  # noqa: BLE001 - any end but the one that was meant
                cause = error
            else:
                state.alive = False
                state.failures = 0
                return
            pause = state.crashed(cause, self._clock())
            await asyncio.sleep(pause if self._pauses else 0.0)

    def spawn(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in the background. An error is logged and counted."""
        task = asyncio.create_task(work, name=name)
        self._spawned.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._spawned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._state(task.get_name()).errors += 1
            _log_error(task.get_name(), error)

    def _state(self, name: str) -> TaskState:
        return self._states.setdefault(name, TaskState(name))

    def states(self) -> list[TaskState]:
        """Return the state of each task that was ever started, by name."""
        return [self._states[name] for name in sorted(self._states)]

    def trouble(self) -> str:
        """Return which tasks keep failing, and why; "" when none does."""
        now = self._clock()
        return "; ".join(filter(None, (state.trouble(now) for state in self.states())))

    async def close(self) -> None:
        """Cancel what still runs, and wait for it."""
        left = [task for task in (*self._kept.values(), *self._spawned) if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _log_error(name: str, error: BaseException) -> None:
    log.error("background.failed task=%s error=%r", name, error_location(error))
    log.debug("background.failed task=%s in full", name, exc_info=error)


def awaited(work: Awaitable[T], name: str) -> asyncio.Future[T]:
    """Start `work`, a step of a call that awaits it. If the call is cancelled first, asyncio logs its error by name."""
    future = asyncio.ensure_future(work)
    if isinstance(future, asyncio.Task):
        future.set_name(name)
    return future


def keep_thread(name: str, work: Callable[[], None], stopping: threading.Event) -> threading.Thread:
    """Start a daemon thread that runs `work` until it returns, and again after it has ended by an error.

    `stopping`: set when it is to end, by `work` as well.
    """

    def run() -> None:
        state = TaskState(name)
        while True:
            state.started_at = time.monotonic()
            try:
                return work()
            except Exception as error:  # noqa: BLE001 - any end but the one that was meant
                pause = state.crashed(error, time.monotonic())
            if stopping.wait(pause):
                return None

    return start_thread(name, run)


def start_thread(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread for `work`. An error is logged."""

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a thread has no caller
            _log_error(name, error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
