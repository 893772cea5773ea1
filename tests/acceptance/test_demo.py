"""`make demo ONCE=1` without the make: from nothing to rows and files, and nothing left running."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.processes import die_with_parent
from tests.acceptance.test_dev import alive

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The program as a clone has it, in a place of its own: the demo keeps its data beside it."""
    here = tmp_path / "c"
    here.mkdir()
    for name in ("receiver", "handlers", "config", "scripts"):
        shutil.copytree(ROOT / name, here / name, ignore=shutil.ignore_patterns("__pycache__"))
    return here


def test_the_demo_shows_what_became_of_each_and_leaves_nothing_behind(clone: Path) -> None:
    environ = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    parent = os.getpid()
    demo = subprocess.Popen(
        [sys.executable, "scripts/demo.py", "--once"],
        cwd=clone,
        env={**environ, "HOME": str(clone), "PYTHONPATH": str(clone)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: die_with_parent(parent),
    )
    try:
        shown, _ = demo.communicate(timeout=120)
    finally:
        demo.kill()
    assert demo.returncode == 0, shown
    assert "Traceback" not in shown
    # A line says of each delivery where its row or files are
    lines = [line for line in shown.splitlines() if line.startswith("evt_") and " delivered " in line]
    assert any("skyvern_runs" in line for line in lines), shown
    assert any("/archive/" in line for line in lines), shown
    # And nothing of it runs any more
    assert not [pid for pid in processes_with(f"PYTHONPATH={clone}") if alive(pid)]


def processes_with(variable: str) -> list[int]:
    """Processes that have `variable` in their environment, as all that the demo starts have."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found
