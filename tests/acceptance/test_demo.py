"""`make demo ONCE=1` without the make: from nothing to rows and files, and nothing left running."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver.config.settings import embedded_socket
from receiver.runtime.child import die_with_parent
from tests.support.paths import ROOT
from tests.support.processes import alive
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.long


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """The program as a clone in a deep folder has it: the demo keeps its data beside it."""
    here = tmp_path / ("deep" * 25)
    here.mkdir()
    for name in ("receiver", "handlers", "simulator", "config", "scripts"):
        shutil.copytree(ROOT / name, here / name, ignore=shutil.ignore_patterns("__pycache__"))
    yield here
    shutil.rmtree(embedded_socket(here / "var" / "demo").parent)


def start(clone: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    environ = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    parent = os.getpid()
    return subprocess.Popen(
        [sys.executable, "scripts/demo.py", *arguments],
        cwd=clone,
        env={**environ, "HOME": str(clone), "PYTHONPATH": str(clone)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: die_with_parent(parent),
        **options,
    )


def running(clone: Path) -> list[int]:
    """All that this demo has started and that still runs."""
    return [pid for pid in processes_with(f"PYTHONPATH={clone}") if alive(pid)]


def test_demo_shows_each_result_and_leaves_nothing_behind(clone: Path) -> None:
    demo = start(clone, "--once", stdout=subprocess.PIPE)
    try:
        shown, _ = demo.communicate(timeout=2 * PATIENCE)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 0, shown
    assert "Traceback" not in shown + (clone / "var/demo/log").read_text()
    assert "WARNING" not in shown
    # A line says of each delivery where its row or files are
    lines = [line for line in shown.splitlines() if line.startswith("evt_") and " delivered " in line]
    assert any("skyvern_runs" in line for line in lines), shown
    assert any("/archive/" in line for line in lines), shown
    # And nothing of it runs any more
    assert not running(clone)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_demo_that_is_killed_leaves_nothing_behind(clone: Path, number: signal.Signals) -> None:
    with (clone / "shown").open("w") as shown:
        demo = start(clone, stdout=shown)
    try:
        eventually(lambda: len(running(clone)) >= 6)  # demo, dev, Valkey, serve, worker, clock
        demo.send_signal(number)
        demo.wait(120)
        eventually(lambda: not running(clone))
    finally:
        demo.kill()
    assert "Traceback" not in (clone / "shown").read_text() + (clone / "var/demo/log").read_text()


def processes_with(variable: str) -> list[int]:
    """Processes that have `variable` in their environment, as all that the demo starts have."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
