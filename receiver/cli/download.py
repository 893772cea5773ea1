"""Downloads files of a run: from the sinks that stored them, else from Skyvern."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from handlers.mirror.names import UsedNames, safe_file_name
from handlers.support.wording import size as shown_size
from receiver.api.artifact_content import ContentParameters
from receiver.api.artifacts import LIST_ARTIFACTS, ArtifactRow
from receiver.cli.client import Client, rows_of
from receiver.cli.output import clean, out, progress
from receiver.errors import Busy, NotFound, NotStarted, RunhookError

# Files of a run, tries of one, and seconds between two tries.
MOST: Final = 10_000
TRIES: Final = 4
PAUSE: Final = 2.0


class _Rejected(Exception):
    """A file that was not downloaded, and why."""


def download_files(
    client: Client, run_id: str, source: str, folder: Path, *, force: bool, pause: float = PAUSE
) -> None:
    """Download the files of a run into `folder`, which is created, and print the result of each.

    Existing files stay without `force`. `pause`: seconds between two tries. Raises RunhookError if a file could not be
    downloaded.
    """
    parameters = LIST_ARTIFACTS.validated({"run": run_id, "source": source})
    files = list(rows_of(client, LIST_ARTIFACTS, parameters, MOST))
    if not files:
        raise RunhookError(f"run {clean(run_id, 60)} has no files")
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for row, name in zip(files, names_of(files), strict=True):
        try:
            result = _fetch(client, row, folder / name, pause, force=force)
        except (NotFound, Busy, NotStarted, _Rejected) as problem:
            failed, result = failed + 1, clean(problem)
        out().print(f"{name}: {result}", soft_wrap=True)
    if failed:
        raise RunhookError(f"{failed} of {len(files)} files not downloaded")


def names_of(files: Sequence[ArtifactRow]) -> list[str]:
    """Return a safe file name for each, all different, also where the file system ignores case."""
    used = UsedNames()
    return [used.reserve(safe_file_name(row.name)) for row in files]


def _fetch(client: Client, row: ArtifactRow, target: Path, pause: float, *, force: bool) -> str:
    """Download one file and return a description. Raises NotFound, Busy, NotStarted and _Rejected."""
    if target.is_dir() and not target.is_symlink():
        raise _Rejected("skipped: a folder of this name exists")
    if os.path.lexists(target) and not force:
        if target.is_file() and row.sha256 and _digest(target) == row.sha256:
            return "up to date, checksum verified"
        if target.is_file() and not row.sha256 and target.stat().st_size == row.size:
            return "exists with the same size, checksum not known; --force replaces it"
        if not row.sha256:
            raise _Rejected("skipped: the file exists, and the run's checksum is not known; --force replaces it")
        raise _Rejected("skipped: a different file of this name exists; --force replaces it")
    parameters = ContentParameters(run_id=row.run_id, name=row.name, source=row.source, skyvern=True)
    part = target.with_name(f".{target.name[:100]}.part")
    try:
        size, encoding = _receive_with_retries(client, parameters, part, pause)
        if row.sha256 and not encoding and _digest(part) != row.sha256:
            raise _Rejected("discarded: the stored file does not match the run's checksum")
        if encoding:
            target = target.with_name(f"{target.name}.{safe_file_name(encoding)}")
            if os.path.lexists(target) and not force:
                raise _Rejected(f"skipped: {target.name} exists; --force replaces it")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    if encoding:
        return f"{shown_size(size)}, encoded as {clean(encoding, 40)}, checksum not verified: {target.name}"
    return f"{shown_size(size)}, checksum {'verified' if row.sha256 else 'not known'}"


def _receive_with_retries(client: Client, parameters: ContentParameters, part: Path, pause: float) -> tuple[int, str]:
    for left in range(TRIES - 1, -1, -1):
        try:
            return _receive(client, parameters, part)
        except (Busy, NotStarted):
            if not left:
                raise
            time.sleep(pause)
    raise AssertionError


def _receive(client: Client, parameters: ContentParameters, part: Path) -> tuple[int, str]:
    """Write the file to `part`, and return its size and content coding."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_TRUNC
    have = 0
    with client.content(parameters) as found, progress(parameters.name, found.size) as show:
        try:
            with os.fdopen(os.open(part, flags, 0o666), "wb") as file:
                for chunk in found.chunks:
                    have += file.write(chunk)
                    show(have)
        except OSError as error:  # such as a full disk: the system does not name the file
            error.filename = error.filename or str(part)
            raise
    if have != found.size:
        raise NotStarted(f"interrupted after {have:,} of {found.size:,} bytes")
    return found.size, found.encoding


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
