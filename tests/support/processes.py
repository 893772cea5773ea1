"""Processes: starting them so that none outlives the test run, and what the system says of them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from receiver.runtime.child import die_with_parent


def launch(
    command: Sequence[str],
    log: Path | int,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    start_new_session: bool = False,
    prepare: Callable[[], object] = lambda: None,
    with_parent: signal.Signals = signal.SIGKILL,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process that writes to the end of `log`, and that gets the signal `with_parent` when this one ends.

    `prepare`: called in the child.
    """
    # The kernel would take the end of a helper thread for the parent's end, and kill the process too early.
    parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0

    def before() -> None:
        prepare()  # first: a change of user clears what the next line asks of the kernel
        if parent:
            die_with_parent(parent, with_parent)

    output = log if isinstance(log, int) else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            cwd=cwd,
            start_new_session=start_new_session,
            pass_fds=pass_fds,
            preexec_fn=before,
        )
    finally:
        if not isinstance(log, int):
            os.close(output)


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


def name_of(pid: int) -> str:
    """Return the name under which the system lists the process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
