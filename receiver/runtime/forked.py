"""A program of ours as a fork of this process: it shares the memory of all that was imported before.

It is used as a `subprocess.Popen` with its output in a pipe is.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import IO, Final

from receiver.runtime.parent_death import die_with_parent
from receiver.runtime.working_flag import WorkingFlag, answer_by

_PR_SET_NAME: Final = 15
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# What an end of the program by an error that it does not handle looks like.
_FAILED: Final = 1


class ForkedProcess:
    """The process that runs `main`, and ends when that returns or raises.

    `name`: shown by `ps -o comm`. Its output, both kinds, is read from `stdout`. `flag`: is down until `main` has
    called `say_working`. Make it in the main thread, while there are no others.
    """

    def __init__(self, name: str, main: Callable[[], None], flag: WorkingFlag | None = None) -> None:
        if flag is not None:
            flag.set(False)
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        mask = signal.pthread_sigmask(
            signal.SIG_BLOCK, _HANDLED
        )  # what comes now must not end up in our handlers there
        self.pid = os.fork()
        if not self.pid:
            _be(name, main, flag, parent, writer, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writer)
        self.stdout: IO[bytes] | None = os.fdopen(reader, "rb", buffering=0)
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._ended(os.WNOHANG)

    def wait(self) -> int:
        """Return the exit code when it has ended."""
        code = self._ended(0)
        assert code is not None
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _ended(self, options: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, options)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _be(
    name: str, main: Callable[[], None], flag: WorkingFlag | None, parent: int, output: int, mask: Iterable[int]
) -> None:  # pragma: no cover - a process of its own
    """Be the forked process. Never returns: nothing of the caller's stack may run twice."""
    answer_by(flag)
    code = _FAILED
    try:
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        die_with_parent(parent)
        os.setsid()  # out of reach of the terminal's Ctrl-C
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, stream in enumerate(("stdout", "stderr"), 1):
            os.dup2(output, descriptor)  # those of before know where in their files they were
            setattr(
                sys, stream, os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
            )
        _show_as(name)
        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does at its end
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _show_as(name: str) -> None:
    """Set the name by which the system lists this process, up to 15 characters; only Linux has one."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
