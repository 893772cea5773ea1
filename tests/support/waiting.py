"""Waiting for a state: the one way in which tests do it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 120.0
"""Seconds after which a test fails. They claim nothing: a machine may have other things to do."""


def eventually(
    check: Callable[[], Any], seconds: float = PATIENCE, *, every: float = 0.02, what: Callable[[], object] = str
) -> Any:
    """Return what `check` returns once that is true; an AssertionError in it means not yet.

    Fails after `seconds`, with what `what` returns then. `every`: seconds between two checks, at the least: it rests
    for as long as a check takes, so that what it waits for has the core meanwhile.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()  # read first: a check that was begun in time counts
        late = began > deadline
        try:
            if found := check():
                return found
        except AssertionError:
            if late:
                raise
        assert not late, f"not within {seconds:g} s\n{what()}"
        time.sleep(max(every, min(time.monotonic() - began, 1.0)))


def seconds_until(check: Callable[[], Any], seconds: float = PATIENCE, **options: Any) -> float:
    """Wait as `eventually` does. Return how long it took."""
    began = time.monotonic()
    eventually(check, seconds, **options)
    return time.monotonic() - began


class Stopwatch:
    """Measures what must not take long, on a machine that may have other things to do.

    `slowness`: how many times longer work takes here than on an idle machine, at its worst so far.
    """

    def __init__(self) -> None:
        self.slowness = 1.0
        self._measure()
        self._began = time.monotonic()

    def _measure(self) -> None:
        wall, cpu = time.monotonic(), time.thread_time()
        while (used := time.thread_time() - cpu) < 0.05:  # several turns of a core that is shared
            pass
        self.slowness = max(self.slowness, (time.monotonic() - wall) / used)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def at_most(self, seconds: float) -> None:
        """Fail when more time has passed than `seconds` on an idle machine. Leave an order of magnitude of room."""
        passed = self.seconds
        self._measure()
        assert passed < seconds * self.slowness, f"{passed:.2f} s, at a slowness of {self.slowness:.1f}"
