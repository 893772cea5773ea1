"""The data directory of this machine: room, inodes, and who may read it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from receiver.doctor.finding import Finding
from receiver.status.problem import size
from receiver.status.report import DiskReport

# Files that must still fit: the spool, the quarantine and mirrored runs make many.
_FEWEST_INODES: Final = 10_000


def examine(report: DiskReport) -> Iterator[Finding]:
    """Yield what is found of the directory that `report` names."""
    if report.trouble:
        yield Finding("disk", f"{report.directory}: {report.trouble}", "set RUNHOOK_DATA, or its permissions")
        return
    reserve = report.reserve or 0
    if report.free is not None:
        short = report.free < 2 * reserve
        yield Finding(
            "disk.free",
            f"{report.directory} has {size(report.free)} free; spool.reserve_bytes keeps {size(reserve)}",
            "free some: below the reserve webhooks are answered 503 when Redis is away, or embedded" if short else "",
        )
    status = os.statvfs(report.directory)
    if status.f_files:  # some file systems have no such limit
        few = status.f_favail < _FEWEST_INODES
        yield Finding("disk.inodes", f"{status.f_favail} files more fit", "remove some files there" if few else "")
    mode = Path(report.directory).stat().st_mode & 0o777
    yield Finding(
        "disk.mode",
        f"{report.directory} has mode {mode:04o}",
        f"chmod 700 {report.directory}: bodies and secrets lie in it" if mode & 0o077 else "",
    )
