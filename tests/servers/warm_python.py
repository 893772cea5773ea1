"""A Python that has imported all of Runhook, and becomes a program by a fork.

    process = start(["-m", "receiver.cli", "serve"], log, env=environ, cwd=ROOT)     # as launch([sys.executable, ...])

A start of Python with the imports of a receiver takes two seconds of a core, and a fork a hundredth of one. What runs
is a process of its own all the same, with its own id, session, environment and end; `runhook dev` starts its parts in
the same way. Tests of the start itself use `launch`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from receiver.runtime.child import die_with_parent
from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.waiting import PATIENCE


class WarmProcess:
    """A process that was started here. It is used as a `subprocess.Popen` is."""

    def __init__(self, pid: int, end: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._end = end
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code when it has ended. Raises subprocess.TimeoutExpired after so many seconds."""
        with self._lock:
            if self.returncode is None:
                if not _readable(timeout, self._end):
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
                code = os.read(self._end, 16)
                os.close(self._end)
                assert code, "the Python that it was forked from has ended"
                self.returncode = int(code)
            return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | WarmProcess


def start(
    arguments: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] = os.environ,
    cwd: Path = ROOT,
    start_new_session: bool = False,
    errors: Path | None = None,
) -> WarmProcess:
    """Start Python with these arguments, as `launch` starts a command: `-m` or `-c` comes first.

    `errors`: where its standard error goes, `log` unless it is given.
    """
    wanted = {"arguments": arguments, "environ": dict(env), "cwd": str(cwd), "session": start_new_session}
    return _warm().start(json.dumps(wanted).encode(), log, errors or log)


def run(arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Start it, and return what it has printed when it has ended."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder) / "out", Path(folder) / "errors"
        process = start(arguments, out, env=env, cwd=cwd, errors=errors)
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
        return subprocess.CompletedProcess(arguments, code, out.read_text(), errors.read_text())


@functools.cache
def _warm() -> _Warm:
    return _Warm()


class _Warm:
    """The Python that is forked: one for each process that runs tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._channel, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tests.servers.warm_python", str(theirs.fileno())]
            environ = {**kept, "PYTHONPATH": str(ROOT)}
            self._process = launch(command, 2, env=environ, cwd=ROOT, pass_fds=[theirs.fileno()])
        atexit.register(self._close)

    def start(self, wanted: bytes, *outputs: Path) -> WarmProcess:
        end, told = os.pipe()
        opened = [os.open(each, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666) for each in outputs]
        try:
            with self._lock:
                socket.send_fds(self._channel, [len(wanted).to_bytes(4)], [told, *opened])
                self._channel.sendall(wanted)
                pid = int.from_bytes(_exactly(self._channel, 4))
        finally:
            for each in (told, *opened):
                os.close(each)
        assert pid, "the Python that is forked has ended"
        return WarmProcess(pid, end)

    def _close(self) -> None:
        self._channel.close()  # which ends it
        self._process.kill()
        self._process.wait()


def _readable(seconds: float | None, *descriptors: int) -> list[int]:
    """Those that can be read or have ended, when there are some. `select.select` takes none over 1023."""
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLIN)
    return [number for number, _ in poll.poll(None if seconds is None else seconds * 1000)]


def _exactly(channel: socket.socket, count: int) -> bytes:
    """So many bytes; fewer when the other side has ended."""
    found = b""
    while len(found) < count and (more := channel.recv(count - len(found))):
        found += more
    return found


# --- In the other process


def _import_all() -> None:
    from importlib import import_module

    from handlers import registry
    from receiver.cli import serve
    from receiver.cli.commands import COMMANDS, find

    for name in COMMANDS:
        find(name)
    for module in ("receiver.clock", "receiver.dispatch.dispatcher", "receiver.worker", "receiver.wakeups.worker"):
        import_module(module)
    serve.web_parts()
    registry.sink_types()
    gc.collect()
    gc.freeze()


def _serve(channel: socket.socket) -> None:
    """Start what one test process wants, until that has ended."""
    woken, waking = os.pipe()
    for each in (woken, waking):
        os.set_blocking(each, False)
    signal.set_wakeup_fd(waking)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told: dict[int, int] = {}
    while True:
        readable = _readable(None, channel.fileno(), woken)
        if woken in readable:
            os.read(woken, 4096)
            _tell_of_ends(told)
        if channel.fileno() not in readable:
            continue
        head, descriptors, _, _ = socket.recv_fds(channel, 4, 3)
        if not head:
            return
        wanted = json.loads(_exactly(channel, int.from_bytes(head)))
        end, *outputs = descriptors
        parent = os.getpid()
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for each in (woken, waking, end, *told.values()):
                os.close(each)
            channel.close()
            _become(wanted, outputs, parent)
        told[pid] = end
        for each in outputs:
            os.close(each)
        channel.sendall(pid.to_bytes(4))


def _tell_of_ends(told: dict[int, int]) -> None:
    """Write the exit code of each process that has ended to where it is waited for."""
    while told:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        end = told.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(end, b"%d" % os.waitstatus_to_exitcode(status))
        os.close(end)


def _become(wanted: dict[str, Any], outputs: Sequence[int], parent: int) -> NoReturn:
    """Be the program that is wanted."""
    die_with_parent(parent)
    if wanted["session"]:
        os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
        os.close(output)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["environ"])
    how, what, *arguments = wanted["arguments"]
    sys.argv = [how, *arguments]
    code = 1
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            program = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), program.__dict__)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if isinstance(leaving.code, str):
            print(leaving.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        _end(code)


def _end(code: int) -> NoReturn:
    """End as Python does, but for the memory: to free what is shared costs more than all of a short program."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _import_all()
    _serve(socket.socket(fileno=int(sys.argv[1])))
