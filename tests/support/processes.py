"""Processes as the system shows them, and waiting for a state."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def state_and_parent(pid: int) -> tuple[str, int] | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return fields[0], int(fields[1])


def alive(pid: int) -> bool:
    found = state_and_parent(pid)
    return found is not None and found[0] not in "ZX"


def descendants(pid: int) -> set[int]:
    """The processes below `pid`, itself not included."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    parents = {each: found[1] for each in pids if (found := state_and_parent(each))}
    below = {pid}
    while more := {each for each, parent in parents.items() if parent in below} - below:
        below |= more
    return below - {pid}


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def until(condition: Callable[[], Any], seconds: float = 60, what: Callable[[], str] = lambda: "") -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s; {what()}"
        time.sleep(0.02)
    return time.monotonic() - started
