"""What a process needs of the system: open files, signals, garbage collection, ids; and when it is started again."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import resource
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

# Seconds of life after which a process's end is not counted together with those before.
STABLE_AFTER: Final = 10.0

# More open files than this are of no use, and cost the kernel memory.
MAX_FILES: Final = 65_536

_MAX_DELAY: Final = 5.0
_USUAL_GC: Final = gc.get_threshold()
_SELDOM_GC: Final = 200_000  # new objects between two collections; with the usual 700 a start takes a fifth longer


def relax_gc_for_imports(new_objects: int = _SELDOM_GC) -> None:
    """Collect garbage seldom: imports make hundreds of thousands of objects, and all of them stay.

    `new_objects`: between two collections; 0 for none until `freeze_imports`.
    """
    gc.set_threshold(new_objects)


def freeze_imports() -> None:
    """Collect garbage as usual again, but never among the objects that exist now. For a process that runs for long."""
    gc.freeze()
    gc.set_threshold(*_USUAL_GC)


def raise_file_limit(most: int = MAX_FILES) -> int:
    """Let this process open as many files as the system allows it, up to `most`. Returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return min(soft, most) if soft != resource.RLIM_INFINITY else most
    with contextlib.suppress(OSError, ValueError):  # macOS says "infinity", and takes less
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


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

    def wait(self, seconds: float) -> None:
        """Wait for a request or a `wake`, at most `seconds`. For one thread, which is not the main thread."""
        with contextlib.suppress(queue.Empty):
            self._wakes.get(timeout=seconds)

    def __bool__(self) -> bool:
        return self.first_at is not None


def hang_up() -> tuple[signal.Signals, ...]:
    """Return SIGHUP as a signal that stops; () where it is ignored, as under nohup and in a supervisor's child."""
    return () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)


@contextlib.contextmanager
def stop_signals(stops: StopRequests) -> Iterator[int]:
    """Send SIGTERM, SIGINT and SIGHUP, unless that is ignored, to `stops` within the block. Call it in the main thread.

    Yields a file descriptor that becomes readable at each of these signals and at SIGCHLD, so that a `select` on it
    returns at once; `drain` empties it.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, stops) for number in (signal.SIGTERM, signal.SIGINT, *hang_up())}
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def drain(reader: int) -> None:
    """Read what signals have written to the descriptor of `stop_signals`. Does not block."""
    with contextlib.suppress(BlockingIOError):
        os.read(reader, 4096)


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


def exit_text(code: int) -> str:
    """Return how a process ended, given its exit code as subprocess has it: negative for a signal."""
    return f"killed by signal {-code}" if code < 0 else f"ended with code {code}"


def error_location(error: BaseException) -> str:
    """Return the error's type, file and line, and what the system said. Not its text, which may hold a payload or a
    secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    number = error.errno if isinstance(error, OSError) else None
    said = f" ({os.strerror(number)})" if number else ""
    return f"{type(error).__name__}{said}{place}"


def process_space() -> str:
    """Return an id of the processes that this one can see: a process id means something only within it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return f"{boot[:13]} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def process_state(pid: int) -> str:
    """Return "gone" or "suspended" if the process of this id is so, else ""."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
    except ProcessLookupError:
        return "gone"
    except (OSError, OverflowError):  # of another user, or not Linux
        return ""
    return {b"T": "suspended", b"t": "suspended", b"Z": "gone", b"X": "gone"}.get(state, "")
