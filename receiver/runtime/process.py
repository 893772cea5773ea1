"""This process and its system: open files, garbage collection, and which other processes it can see."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
from pathlib import Path
from typing import Final

# More open files than this are of no use, and cost the kernel memory.
MAX_FILES: Final = 65_536

_USUAL_GC: Final = gc.get_threshold()
_SELDOM_GC: Final = 200_000  # new objects between two collections; with the usual 700 a start takes a fifth longer


def relax_gc_for_imports(new_objects: int = _SELDOM_GC) -> None:
    """Collect garbage seldom: imports make hundreds of thousands of objects, and all of them stay.

    `new_objects`: between two collections; 0 for none until `freeze_imports`.
    """
    gc.set_threshold(new_objects)


def freeze_imports() -> None:
    """Collect garbage as usual again, but never among the objects that exist now. For a process that runs for long."""
    gc.freeze()
    gc.set_threshold(*_USUAL_GC)


def raise_file_limit(most: int = MAX_FILES) -> int:
    """Let this process open as many files as the system allows it, up to `most`. Returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return min(soft, most) if soft != resource.RLIM_INFINITY else most
    with contextlib.suppress(OSError, ValueError):  # macOS says "infinity", and takes less
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def process_space() -> str:
    """Return an id of the processes that this one can see: a process id means something only within it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return f"{boot[:13]} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def process_state(pid: int) -> str:
    """Return "gone" or "suspended" if the process of this id is so, else ""."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
    except ProcessLookupError:
        return "gone"
    except (OSError, OverflowError):  # of another user, or not Linux
        return ""
    return {b"T": "suspended", b"t": "suspended", b"Z": "gone", b"X": "gone"}.get(state, "")
