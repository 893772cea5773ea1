"""Run work in a separate process with limited time and memory.

For user input that a library may process for a long time, without a way to stop it or to let other threads run.
"""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from receiver.errors import error_location
from receiver.runtime.child import die_with_parent

# Maximum seconds of processor time, seconds of wall-clock time from the start of the process, and bytes of memory.
PROCESSOR: Final = 4
CLOCK: Final = 18.0
MEMORY: Final = 768 << 20
_NICE: Final = 5

T = TypeVar("T")


class TookTooMuch(Exception):
    """The work exceeded its limit of time or memory."""


def run_bounded(work: Callable[..., T], *args: Any, seconds: float = CLOCK) -> T:
    """Return the result of `work`, a module-level function, for `args`; all of them must be picklable. `seconds`: by
    the wall clock.

    Raises the exceptions of `work`, and TookTooMuch.
    """
    command = [sys.executable, "-m", __name__]
    try:
        ended = subprocess.run(  # noqa: S603 - the command is fixed
            command, input=pickle.dumps((work, args)), capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise TookTooMuch from None
    if ended.returncode:
        raise TookTooMuch
    found = pickle.loads(ended.stdout)  # noqa: S301 - written by the child process
    if isinstance(found, BaseException):
        raise found
    result: T = found
    return result


def _main() -> None:
    die_with_parent(os.getppid())
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep prints of a library out of the result
    work, args = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by the parent process
    os.nice(_NICE)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + PROCESSOR)
    _limit(resource.RLIMIT_DATA, MEMORY)
    _limit(resource.RLIMIT_CORE, 0)
    try:
        answer = work(*args)
    except MemoryError:
        os._exit(1)
    except Exception as error:  # noqa: BLE001 - the other process raises it
        answer = error
    try:
        answers.write(pickle.dumps(answer))
    except (pickle.PicklingError, TypeError, AttributeError):
        answers.write(pickle.dumps(RuntimeError(error_location(answer) if isinstance(answer, Exception) else "")))
    answers.close()


def _limit(which: int, most: int) -> None:
    with suppress(ValueError, OSError):  # it is lower already
        resource.setrlimit(which, (most, most))


if __name__ == "__main__":
    _main()
