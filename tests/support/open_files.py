"""Which files this process has open."""

from __future__ import annotations

import os
from pathlib import Path


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
