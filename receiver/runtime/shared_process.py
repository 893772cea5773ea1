"""Several units in one process, each in a thread of its own, and what is watched so that none harms the others.

The process gives signs of life, without which the supervisor kills it. A unit that ends by itself, or uses much of the
processor, says so in its status; the supervisor then sets it apart. Knows no sink.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from receiver.errors import RunhookError
from receiver.runtime.background import start_thread
from receiver.runtime.child import REPLACE, ChildContext, ChildMain, SharedStatus
from receiver.runtime.process import Bell, error_location, readable

# Seconds between two signs of life while there is a job, and while there is none.
_PULSE: Final = 1.0
_IDLE_PULSE: Final = 10.0
# Seconds by which one may be late.
_GRACE: Final = 3.0
# Seconds over which the use of the processor is measured, and how much of one core is too much.
_WINDOW: Final = 10.0
_MUCH: Final = 0.2

_TASKS: Final = Path("/proc/self/task")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class _Stopping:
    """Hands a stop on to all units. A signal handler."""

    def __init__(self, bell: Bell) -> None:
        self.asked = False
        self._bell = bell
        self._calls: list[Callable[[], None]] = []

    def add(self, call: Callable[[], None]) -> None:
        """Take what is to be called at the stop, which may have come already."""
        self._calls.append(call)
        if self.asked:
            call()

    def __call__(self, *_: object) -> None:
        self.asked = True
        for call in list(self._calls):
            call()
        self._bell.ring()


def run_shared_process(mains: Mapping[str, ChildMain], contexts: Mapping[str, ChildContext]) -> int:
    """Run the units of `contexts`, functions by label, until SIGTERM and until each has ended. Returns the exit code.

    Call it in the main thread, right after the fork.
    """
    bell = Bell()
    stopping = _Stopping(bell)
    signal.signal(signal.SIGTERM, stopping)

    def run(label: str) -> None:
        context = replace(contexts[label], alone=False, on_stop=stopping.add, on_busy=bell.ring)
        try:
            why = "a send was left behind" if mains[label](context) == REPLACE else "its thread ended"
        except RunhookError as error:
            why = str(error)
        except BaseException as error:  # noqa: BLE001 - the supervisor logs it and decides
            why = error_location(error)
        if not stopping.asked:
            context.status.trouble = why
        at_work.discard(label)
        bell.ring()

    # Not whether its thread lives: one that has just rung may do so for a moment more.
    at_work = set(contexts)
    for label in contexts:
        start_thread(label, partial(run, label))
    statuses = {label: context.status for label, context in contexts.items()}
    use = _ProcessorUse()
    while at_work:
        busy = any(status.deadline for status in statuses.values())
        pulse = _PULSE if busy else _IDLE_PULSE
        for status in statuses.values():
            status.pulse_due = time.monotonic() + pulse + _GRACE
        readable([bell.fileno()], pulse)
        bell.clear()
        if busy:
            _find_heavy(statuses, use)
    return 0


def _find_heavy(statuses: Mapping[str, SharedStatus], use: _ProcessorUse) -> None:
    """Note in their statuses which units are too heavy to share a process."""
    for label, part in use.look(time.monotonic()).items():
        if part > _MUCH and label in statuses:
            statuses[label].trouble = f"it used {part:.0%} of a core"


class _ProcessorUse:
    """What the threads of this process use, by the first word of their names."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._before: dict[int, float] = {}

    def look(self, now: float) -> dict[str, float]:
        """Return which part of a core each name has used in the last _WINDOW seconds; {} when they are not over."""
        seconds = now - self._since
        if seconds < _WINDOW:
            return {}
        taken = {
            thread.native_id: (thread.name.partition(" ")[0], _thread_seconds(thread.native_id))
            for thread in threading.enumerate()
            if thread.native_id is not None
        }
        used: defaultdict[str, float] = defaultdict(float)
        for number, (name, total) in taken.items():
            used[name] += total - self._before.get(number, 0.0)
        self._since, self._before = now, {number: total for number, (_, total) in taken.items()}
        return {name: each / seconds for name, each in used.items()}


def _thread_seconds(number: int) -> float:
    """Return the seconds of a processor that a thread has used; 0.0 where nobody knows."""
    with suppress(OSError):
        fields = (_TASKS / str(number) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0
