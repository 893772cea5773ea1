"""What each part that starts processes needs: children that never outlive it, and last words."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1
_USUAL = gc.get_threshold()
_SELDOM = 50_000  # new objects between two searches for garbage; the usual 700 make a start a sixth longer

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def die_with_parent(parent: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Run in a child right after fork: the kernel sends it `sig` when its parent ends, even by kill -9.

    `parent`: the process id that the parent read before it forked. If that one has ended since, the child exits here.
    On systems other than Linux there is no such request to the kernel, and this does nothing but that check.
    The kernel means the *thread* that forked: start children from a thread that lives as long as they do.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def starting() -> None:
    """Search for garbage seldom: imports make hundreds of thousands of objects, and all of them stay."""
    gc.set_threshold(_SELDOM)


def started() -> None:
    """For a process that runs for long, when all is imported: search as usual again, but never among what is there."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


class Stops:
    """Counts requests to stop. Signal handlers call it.

    A terminal's Ctrl-C often comes twice, from the terminal and from whatever runs us: only a request that comes a
    second after the first means impatience.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: float | None = None
        self.hurry = False

    def __call__(self, _signum: int = 0, _frame: FrameType | None = None) -> None:
        if self._first is None:
            self._first = self._clock()
        elif self._clock() - self._first >= 1.0:
            self.hurry = True

    def __bool__(self) -> bool:
        return self._first is not None


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that ends with us and is out of reach of the terminal's Ctrl-C. `options`: as for Popen.

    Call it in the main thread, before there are others.
    """
    parent = os.getpid()
    return subprocess.Popen(  # noqa: S603 - the command is our own
        list(command),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509 - no threads, by contract
        **options,
    )


def kind_and_place(error: BaseException) -> str:
    """The error's type, file and line. Not its text, which may hold a payload or a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
