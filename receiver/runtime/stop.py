"""Graceful stops. A process stops in one of two ways, and both begin with `stop_signals`:

a loop      checks its StopRequests between two steps: each process of a worker, the clock, a supervisor
a server    uvicorn's, which lets the requests in flight end: receiver.web.uvicorn_server
"""

from __future__ import annotations

import contextlib
import queue
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequests:
    """Count requests to stop; true once there was one. A signal handler.

    A terminal's Ctrl-C often comes twice, from the terminal and from the parent process: only a request that comes a
    second after the first sets `urgent`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()  # whose `put` a signal handler may call
        self.first_at: float | None = None  # by time.monotonic()
        self.urgent = False

    def __call__(self, _signum: int = 0, _frame: FrameType | None = None) -> None:
        if self.first_at is None:
            self.first_at = self._clock()
        elif self._clock() - self.first_at >= 1.0:
            self.urgent = True
        self.wake()

    def wake(self) -> None:
        """End the present `wait`, or the next one."""
        self._wakes.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait for a request or a `wake`, at most `seconds`. Return whether there was a request. For one thread."""
        with contextlib.suppress(queue.Empty):
            self._wakes.get(timeout=seconds)
        return bool(self)

    def __bool__(self) -> bool:
        return self.first_at is not None


@contextlib.contextmanager
def stop_signals(
    handler: Callable[[int, FrameType | None], object], reload: Callable[[], object] | None = None
) -> Iterator[None]:
    """Call `handler` at SIGTERM, SIGINT and SIGHUP within the block. Call it in the main thread.

    `reload`: called at SIGHUP instead, also after the block: until the process has run its command again, a further
    SIGHUP would end it. SIGHUP stays ignored where it is, as under nohup and in a supervisor's child.
    """
    handlers = {signal.SIGTERM: handler, signal.SIGINT: handler}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = handler if reload is None else lambda *_: reload()
    before = {number: signal.signal(number, each) for number, each in handlers.items()}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # blocked by a reload
    try:
        yield
    finally:
        for number, usual in before.items():
            if number != signal.SIGHUP or reload is None:
                signal.signal(number, usual)
