"""Child processes that end with this one, even when it is killed: forks that run a function, and other programs.

A fork shares the memory of all that was imported before it, and reports to its parent in a page that both share.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import IO, Any, Final

from receiver.errors import RunhookError, error_location

# Exit code of a child that was stopped with work under way.
UNFINISHED: Final = 76
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_TEXT: Final = 16  # where the text begins in the page
_TEXT_BYTES: Final = 400
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class ChildStatus:
    """What a child reports in shared memory: whether it works, its last sign of life, and why it ended."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)

    def reset(self) -> None:
        """Forget the previous process."""
        self._page[: _TEXT + 1] = bytes(_TEXT + 1)

    @property
    def working(self) -> bool:
        """Whether the child has begun its work."""
        return bool(self._page[0])

    @working.setter
    def working(self, value: bool) -> None:
        self._page[0] = value

    @property
    def reloads(self) -> bool:
        """Whether the child's stop is part of a reload: sends under way get the time that they need."""
        return bool(self._page[1])

    @reloads.setter
    def reloads(self, value: bool) -> None:
        self._page[1] = value

    @property
    def pulse_at(self) -> float:
        """time.monotonic() of its last sign of life; 0.0 for a child that gives none."""
        return float(struct.unpack_from("d", self._page, 8)[0])

    def pulse(self) -> None:
        """Give a sign of life."""
        struct.pack_into("d", self._page, 8, time.monotonic())

    @property
    def reason(self) -> str:
        """Why the child ended, in one line, or ""."""
        return bytes(self._page[_TEXT : _TEXT + _TEXT_BYTES]).split(b"\0")[0].decode(errors="replace")

    @reason.setter
    def reason(self, text: str) -> None:
        raw = " ".join(text.split()).encode()[: _TEXT_BYTES - 1]
        self._page[_TEXT : _TEXT + len(raw) + 1] = raw + b"\0"


# The status of this process, if a supervisor started it.
_own: ChildStatus | None = None


def own_status() -> ChildStatus | None:
    """Return what this process shares with its supervisor; None without one."""
    return _own


def report_ready() -> None:
    """Report to the supervisor that this process does its work. Does nothing without one."""
    if _own is not None:
        _own.working = True


class ForkedProcess:
    """A fork that runs `main`, and ends when that returns its exit code (None: 0) or raises. Used as `Popen` is.

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
        _libc()  # before the fork, so that each child has it
        # Blocked, so that no signal of the parent is handled in the child by the parent's handlers.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            self.pid = os.fork()
            if not self.pid:
                _be(name, main, status, parent, writer, mask)
        except OSError:
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


def _be(
    name: str, main: Callable[[], int | None], status: ChildStatus, parent: int, output: int, mask: Iterable[int]
) -> None:  # pragma: no cover - a process of its own
    """Be the forked process. Never returns: nothing of the caller's stack may run twice."""
    global _own
    _own, code = status, 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _HANDLED:
            signal.signal(number, signal.SIG_DFL)
        if output < 0:  # the supervisor handles Ctrl-C and a closed terminal
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        die_with_parent(parent)
        if output >= 0:
            _redirect(output)
        if libc := _libc():
            libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
        else:
            from receiver.runtime.background import start_thread

            start_thread("end with parent", partial(_end_with_parent, parent))
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


@cache
def _libc() -> Any:
    """Return the C library on Linux, else None. Imports ctypes late: a receiver that runs alone needs none."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Have Linux send this process `sig` when its parent ends, even by kill -9. Call it right after the fork.

    `parent`: the process id that the parent read before it forked. If that one has ended since, the child exits here.
    The kernel means the *thread* that forked: start children from a thread that lives as long as they do.
    Other systems, such as macOS, have no such request: there a fork polls (see `_end_with_parent`), and a program
    that `spawn` started outlives a parent that is killed.
    """
    if libc := _libc():
        libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _end_with_parent(parent: int) -> None:  # pragma: no cover - in a process of its own
    """End this process within a second of its parent's end."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(function: Callable[[], int | None]) -> str:
    """Run `function` in a fork, so that nothing it opens is open here. Return why it raised, or ""."""
    status = ChildStatus()
    code = ForkedProcess("runhook check", function, status).wait()
    return status.reason or f"the check {exit_text(code)}" if code else ""


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that ends with this process and is out of reach of the terminal's Ctrl-C.

    `options`: as for Popen. Call it in the main thread, before there are others.
    """
    parent = os.getpid()
    _libc()
    return subprocess.Popen(  # noqa: S603 - the command is Runhook's
        list(command),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(parent),  # noqa: PLW1509 - no threads, by contract
        **options,
    )


def exit_text(code: int) -> str:
    """Return how a process ended, given its exit code as subprocess has it: negative for a signal."""
    return f"killed by signal {-code}" if code < 0 else f"ended with code {code}"


def stop_process(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Stop a process, if it runs, and close its output: SIGTERM, and SIGKILL after `timeout` seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
