"""Where the project stands, and where tests may write without waiting for a disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def memory() -> Path | None:
    """A file system in memory where programs can be run and that has room for all files of tests, if there is one."""
    path = Path("/dev/shm")
    try:
        runs_programs = not os.statvfs(path).f_flag & os.ST_NOEXEC
        return path if runs_programs and os.access(path, os.W_OK) and shutil.disk_usage(path).free > 2 << 30 else None
    except OSError:
        return None
