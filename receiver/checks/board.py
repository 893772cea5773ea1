"""Write and read heartbeats in the data directory, and merge them with those of the ledger.

parts/id            in the data directory: its id, the same wherever it is mounted
parts/<name>.json   in the data directory: the heartbeats of this machine, for when the ledger is unavailable; one line
                    for each role of the process
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from handlers.support.private_file import make_private_file
from receiver.domain import liveness
from receiver.domain.liveness import FORGET_AFTER, ProcessBeat, SeenProcess
from receiver.ledger import Ledger, heartbeats
from receiver.runtime.process import process_space, process_state


def put_file(directory: Path, *beats: ProcessBeat) -> None:
    """Write the heartbeats of a local process, one for each of its roles, to one file of the data directory.

    Removes the file of a process that has stopped. Raises OSError.
    """
    path = directory / "parts" / f"{beats[0].name.replace('/', '_')}.json"
    if beats[0].stopped:
        path.unlink(missing_ok=True)
        return
    draft = path.with_suffix(".new")
    make_private_file(draft)
    draft.write_text("\n".join(each.to_json() for each in beats))
    draft.replace(path)


def directory_id(directory: Path) -> str:
    """Return the unique id of this data directory: 16 hex digits, created once and the same wherever it is mounted.

    Returns "" if the id cannot be read or written.
    """
    path = directory / "parts" / "id"
    with suppress(OSError):
        with suppress(FileExistsError):
            draft = path.with_name(f"id.{token_hex(4)}")
            make_private_file(draft)
            draft.write_text(token_hex(8))
            try:
                os.link(draft, path)  # atomic, and only one process succeeds
            finally:
                draft.unlink()
        return path.read_text()[:16]
    return ""


def list_local_processes(directory: Path) -> list[SeenProcess]:
    """Return the heartbeats in the data directory, and remove those older than FORGET_AFTER."""
    found = []
    for path in sorted((directory / "parts").glob("*.json")):
        with suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if age > FORGET_AFTER:
                path.unlink()
            else:
                beats = map(ProcessBeat.from_json, path.read_bytes().splitlines())
                found += [SeenProcess(beat, age) for beat in beats if beat is not None]
    return found


def merged(*stores: Iterable[SeenProcess]) -> list[SeenProcess]:
    """Return each process once, with what the kernel knows of those that this process can see.

    A heartbeat alone shows the end of a process only after SILENT_AFTER seconds.
    """
    space = process_space()
    return [
        each
        if each.beat.stopped or each.beat.details.get("space") != space
        else replace(each, process=process_state(each.beat.pid))
        for each in liveness.merge(*stores)
    ]


def list_processes(ledger: Ledger, within: float | None = None) -> list[SeenProcess]:
    """Return the newest heartbeat of each process on all hosts. Raises LedgerUnavailable.

    `within`: maximum seconds for the ledger; None: its own limits.
    """
    return merged(ledger.read(heartbeats.list_processes, within))
