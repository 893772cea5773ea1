"""strace on running processes: what they sync, and a disk that is slow or hangs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest


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
