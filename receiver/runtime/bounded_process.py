"""Work in a process of its own, which gets so much time and memory and no more.

For what people write that a library works on as long as it likes, without a way to stop it or to let other threads run.
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

from receiver.runtime.child import die_with_parent
from receiver.runtime.process import error_location

# Seconds of a processor that the work may take, seconds by the clock from the start of the process, and bytes.
PROCESSOR: Final = 4
CLOCK: Final = 18.0
MEMORY: Final = 768 << 20
_NICE: Final = 10

T = TypeVar("T")


class TookTooMuch(Exception):
    """The work took more time or memory than it may."""


def run_bounded(work: Callable[..., T], *args: Any) -> T:
    """Return what `work`, a function of a module, returns for `args`; all of them can be pickled. Raises what it
    raises, and TookTooMuch."""
    command = [sys.executable, "-m", __name__]
    try:
        ended = subprocess.run(  # noqa: S603 - the command is our own
            command, input=pickle.dumps((work, args)), capture_output=True, timeout=CLOCK, check=False
        )
    except subprocess.TimeoutExpired:
        raise TookTooMuch from None
    if ended.returncode:
        raise TookTooMuch
    found = pickle.loads(ended.stdout)  # noqa: S301 - our own process wrote it
    if isinstance(found, BaseException):
        raise found
    result: T = found
    return result


def _main() -> None:
    die_with_parent(os.getppid())
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    work, args = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own process wrote it
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
