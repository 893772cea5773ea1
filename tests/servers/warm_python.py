"""Programs that start as forks of a Python that has imported all of Runhook.

    process = start(["-m", "receiver.cli", "serve"], log, env=environ, cwd=ROOT)     # as launch([sys.executable, ...])

A start of Python with the imports of a receiver takes two seconds of a core, and a fork a hundredth of one. What runs
has its own process id, session, environment and end. Tests of the start itself use `launch`.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NoReturn
from unittest import mock

from receiver.runtime.child import die_with_parent
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.servers.warm_imports"])
_starting = threading.Lock()


class WarmProcess:
    """A process that was started here. It is used as a `subprocess.Popen` is."""

    def __init__(self, process: ForkServerProcess) -> None:
        assert process.pid is not None
        self.pid = process.pid
        self._process = process
        self._lock = threading.Lock()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit code when it has ended. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        with self._lock:
            self._process.join(timeout)
            code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

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
    wanted = (list(arguments), [log.absolute(), (errors or log).absolute()], dict(env), cwd, start_new_session)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with _starting:
        with mock.patch.dict(os.environ, {**kept, "PYTHONPATH": str(ROOT)}, clear=True):
            forkserver.ensure_running()
        process = _CONTEXT.Process(target=_become, args=wanted, daemon=True)
        process.start()
    return WarmProcess(process)


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


def _become(arguments: list[str], outputs: list[Path], environ: dict[str, str], cwd: Path, session: bool) -> NoReturn:
    """Be the program that is wanted."""
    die_with_parent(os.getppid())
    # The parent ends when its last copy is closed: else both would outlive a worker of the tests that is killed.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    if session:
        os.setsid()
    for number, path in enumerate(outputs, 1):
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, number)
        os.close(output)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environ)
    how, what, *rest = arguments
    sys.argv = [how, *rest]
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
    """End as Python does, except for the memory: to free what is shared costs more than all of a short program."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
