"""Children that end with the process that started them, even when it is killed.

Apart from `process`, for a receiver starts no child, and ctypes takes a while to import.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def die_with_parent(parent: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send this process `sig` when its parent ends, even by kill -9. Call it right after the fork.

    `parent`: the process id that the parent read before it forked. If that one has ended since, the child exits here.
    On systems other than Linux there is no such request to the kernel, and this does nothing but that check.
    The kernel means the *thread* that forked: start children from a thread that lives as long as they do.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


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


def end(process: subprocess.Popen[bytes], timeout: float) -> None:
    """End a process, if it runs, and close its output: SIGTERM, and SIGKILL after `timeout` seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
