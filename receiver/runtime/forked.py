"""Run a function in a fork of this process: it shares the memory of all that was imported before.

It is used as a `subprocess.Popen` is.
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

from receiver.errors import RunhookError
from receiver.runtime.child import ChildStatus, report_to
from receiver.runtime.parent_death import die_with_parent
from receiver.runtime.process import error_location, exit_text

_PR_SET_NAME: Final = 15
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class ForkedProcess:
    """The process that runs `main`, and ends when that returns its exit code (None: 0) or raises.

    `name`: shown by `ps -o comm`. `piped`: its output is read from `stdout`, and it is out of reach of the terminal's
    Ctrl-C. Make it in the main thread, while there are no others. An error that it ends by is in `status.reason`.
    Raises OSError when the system has no room for it.
    """

    stdout: IO[bytes] | None = None

    def __init__(
        self, name: str, main: Callable[[], int | None], status: ChildStatus | None = None, *, piped: bool = False
    ) -> None:
        status = status or ChildStatus()
        status.reset()
        reader, writer = os.pipe() if piped else (-1, -1)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # A signal that comes now must not end up in the handlers of this process, over there.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            self.pid = os.fork()
            if not self.pid:
                _be(name, main, status, parent, writer, mask)
        except OSError:  # the system has no room for one more
            for end in (reader, writer) if piped else ():
                os.close(end)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if piped:
            os.close(writer)
            self.stdout = os.fdopen(reader, "rb", buffering=0)
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


def in_child(function: Callable[[], int | None]) -> str:
    """Run `function` in a process of its own, so that nothing it opens is open here. Return why it raised, or ""."""
    status = ChildStatus()
    code = ForkedProcess("runhook check", function, status).wait()
    return status.reason or f"the check {exit_text(code)}" if code else ""


def _be(
    name: str, main: Callable[[], int | None], status: ChildStatus, parent: int, output: int, mask: Iterable[int]
) -> None:  # pragma: no cover - a process of its own
    """Be the forked process. Never returns: nothing of the caller's stack may run twice."""
    report_to(status)
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        if output < 0:  # Ctrl-C and a closed terminal are the supervisor's business
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        die_with_parent(parent)
        if output >= 0:
            _redirect(output)
        _show_as(name)
        code = main() or 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except RunhookError as error:
        code, status.reason = error.exit_code, str(error)
    except BaseException as error:  # noqa: BLE001 - the supervisor reports it and decides
        status.reason = error_location(error)
        if output >= 0:
            sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # never waits for threads that hang


def _redirect(output: int) -> None:  # pragma: no cover - in a process of its own
    """Leave the terminal, and write both kinds of output to `output`."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, stream in enumerate(("stdout", "stderr"), 1):
        os.dup2(output, descriptor)  # the inherited streams know where in their files they were
        setattr(sys, stream, os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False))


def _show_as(name: str) -> None:
    """Set the name by which the system lists this process, up to 15 characters; only Linux has one."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
