"""Run what goes on in the background of an event loop, so that no task ends in silence.

The only module of the receiver that starts tasks and threads:

    Background.keep     what must go on until it returns: after any other end it is logged, and begun again
    Background.spawn    what nobody waits for: an error is logged and counted
    awaited             a part of a call that the call itself awaits: its errors are the caller's
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

from receiver.runtime.process import STABLE_AFTER, error_location, respawn_delay

# Failures in a row from which on a task counts as one that keeps failing.
KEEPS_FAILING: Final = 3

log = logging.getLogger("runhook.background")

T = TypeVar("T")


class TaskState:
    """What is known of the task of one name. `restarts`: how often it was begun again; `failures`: errors of tasks that
    are not begun again. `last_error`: type and place, never a text that may hold a payload."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = False
        self.restarts = 0
        self.failures = 0
        self.last_error = ""
        self.in_a_row = 0
        self.began_at = 0.0

    def failed(self, error: BaseException, now: float) -> float:
        """Count the end of a task that is begun again. Return the pause before that, in seconds, which grows."""
        self.alive = False
        self.restarts += 1
        self.in_a_row = 1 if now - self.began_at >= STABLE_AFTER else self.in_a_row + 1
        self.last_error = error_location(error)
        return respawn_delay(self.in_a_row)

    def trouble(self, now: float) -> str:
        """Return in words that the task keeps failing; "" for one that has not, or has been well since."""
        recovered = self.alive and now - self.began_at >= STABLE_AFTER
        if self.in_a_row < KEEPS_FAILING or recovered:
            return ""
        return f"the background task {self.name} keeps failing: {self.last_error}"


class Background:
    """The background tasks of one event loop, by name. Names are fixed words: metrics have them as labels.

    `pause`: seconds before a task is begun again after so many failures in a row. `clock`: monotonic.
    """

    def __init__(
        self, *, pause: Callable[[int], float] = respawn_delay, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pause = pause
        self._clock = clock
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
            state.alive, state.began_at = True, self._clock()
            try:
                await body()
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    state.alive = False
                    raise
                cause: BaseException = error  # of something that it waited for
            except Exception as error:  # noqa: BLE001 - any end but the one that was meant
                cause = error
            else:
                state.alive = False
                state.in_a_row = 0
                return
            pause = self._failed(state, cause)
            await asyncio.sleep(pause)

    def _failed(self, state: TaskState, error: BaseException) -> float:
        state.failed(error, self._clock())
        pause = self._pause(state.in_a_row)
        log.error(
            "background.failed task=%s error=%r restarts=%d again_in=%.1fs",
            state.name,
            state.last_error,
            state.restarts,
            pause,
        )
        log.debug("background.failed task=%s in full", state.name, exc_info=error)
        return pause

    def spawn(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work`, for whose end nobody waits. An error is logged and counted."""
        task = asyncio.create_task(work, name=name)
        self._spawned.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._spawned.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        state = self._state(task.get_name())
        state.failures += 1
        state.last_error = error_location(error)
        log.error("background.failed task=%s error=%r", state.name, state.last_error)
        log.debug("background.failed task=%s in full", state.name, exc_info=error)

    def _state(self, name: str) -> TaskState:
        return self._states.setdefault(name, TaskState(name))

    def states(self) -> list[TaskState]:
        """Return the state of each task that was ever started, by name."""
        return [self._states[name] for name in sorted(self._states)]

    def trouble(self) -> str:
        """Return in words which tasks keep failing; "" when none does."""
        now = self._clock()
        return "; ".join(filter(None, (state.trouble(now) for state in self.states())))

    async def close(self) -> None:
        """Cancel what still runs, and wait for it."""
        left = [task for task in (*self._kept.values(), *self._spawned) if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _is_cancelled() -> bool:
    """Whether the running task itself was asked to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def awaited(work: Awaitable[T], name: str) -> asyncio.Future[T]:
    """Start `work`, a part of a call that awaits it. If the call is cancelled first, asyncio logs its error by name."""
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
            state.began_at = time.monotonic()
            try:
                work()
                return
            except Exception as error:
                pause = state.failed(error, time.monotonic())
                log.error("background.failed thread=%s error=%r again_in=%.1fs", name, state.last_error, pause)
                log.debug("background.failed thread=%s in full", name, exc_info=True)
            if stopping.wait(pause):
                return

    return start_thread(name, run)


def start_thread(name: str, work: Callable[[], None]) -> threading.Thread:
    """Start a daemon thread for `work`. An error is logged."""

    def run() -> None:
        try:
            work()
        except Exception as error:
            log.error("background.failed thread=%s error=%r", name, error_location(error))
            log.debug("background.failed thread=%s in full", name, exc_info=True)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
