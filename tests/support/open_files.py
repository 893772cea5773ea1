"""Which files and connections to SQLite this process has open, and what strace shows and delays in others."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest


def opened_below(folder: Path) -> set[str]:
    """The names of the files in it that this process has open."""
    found = {path.name: path.stat() for path in folder.iterdir()}
    return {
        name
        for name, each in found.items()
        for open_file in Path("/dev/fd").iterdir()
        if _same(int(open_file.name), each)
    }


def _same(number: int, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(number), wanted)
    except OSError:
        return False


@contextmanager
def strace(pids: Sequence[int], *options: str) -> Iterator[None]:
    """strace these processes while the block runs."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    attach = [part for pid in pids for part in ("-p", str(pid))]
    tracer = subprocess.Popen([program, "-f", "-qq", *options, *attach], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not all(is_traced(pid) for pid in pids):
            if tracer.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"strace can't attach: {tracer.stderr.read() if tracer.stderr else ''}")
            time.sleep(0.02)
        yield
    finally:
        tracer.terminate()
        tracer.wait(120)
        if tracer.stderr:
            tracer.stderr.close()


@contextmanager
def slow_disk(seconds: float, *pids: int) -> Iterator[None]:
    """Each sync of these processes takes so much longer while the block runs."""
    delay = f"inject=fsync,fdatasync:delay_exit={seconds * 1e6:.0f}"
    with strace(pids, "-e", "trace=fsync,fdatasync", "-e", delay, "-o", os.devnull):
        yield


def is_traced(pid: int) -> bool:
    """Whether every thread of `pid` has a tracer."""
    threads = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return all(not re.search(r"^TracerPid:\t0$", text, re.MULTILINE) for text in threads)


_CURRENT = "PYTEST_CURRENT_TEST"
_LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), __file__)


class Tracked(sqlite3.Connection):
    """A connection that knows who has opened it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._left = False
        super().__init__(*args, **options)
        self._left, self._process = True, os.getpid()
        self._opened = os.environ.get(_CURRENT, "no test"), _where()

    def close(self) -> None:
        super().close()
        self._left = False

    def __del__(self) -> None:
        if self._left and self._process == os.getpid():  # a forked child closes what its parent has open
            test, where = self._opened
            super().close()
            warnings.warn(f"left open: a connection to SQLite of {test}\n{where}", ResourceWarning, stacklevel=2)


def _where() -> str:
    """Return the lines of ours that led here."""
    lines: list[str] = []
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_LIBRARIES):
            lines.append(f"  {code.co_filename}:{frame.f_lineno} in {code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return "\n".join(lines)


@contextmanager
def tracked_sqlite() -> Iterator[None]:
    """Track all connections of this process that are opened in the block."""
    connect: Callable[..., sqlite3.Connection] = partial(sqlite3.connect, factory=Tracked)
    with pytest.MonkeyPatch.context() as patch:
        for module in (sqlite3, sqlite3.dbapi2):
            patch.setattr(module, "connect", connect)
        yield
