"""Files of runs into a folder: from the sinks that stored them, else from Skyvern; resumed where they broke off."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from handlers.mirror.names import UsedNames, safe_file_name
from receiver.api.artifact_content import ContentParameters
from receiver.api.artifacts import LIST_ARTIFACTS, ArtifactRow, ArtifactsParameters
from receiver.cli.client import Client, rows_of
from receiver.cli.output import clean, out
from receiver.cli.progress import ProgressLine
from receiver.errors import Busy, NotFound, NotStarted, RunhookError, UsageError
from receiver.status.problem import size as shown_size

# Files of one run that are fetched, tries of one, and seconds between two.
MOST: Final = 10_000
TRIES: Final = 4
PAUSE: Final = 2.0
_READ: Final = 1 << 20  # bytes of a file here that are read at once


class _NotWhole(Exception):
    """A file is not what it should be."""


def download(client: Client, wanted: ArtifactsParameters, folder: Path, *, force: bool) -> None:
    """Fetch the files of one run into `folder`, which is made, and say of each where it is, or why it is not.

    A file that is there stays as it is without `force`. What broke off is gone on with, also by the next call. Raises
    UsageError, and RunhookError when a file could not be had.
    """
    if not wanted.run:
        raise UsageError("--download: say of which run: `runhook artifacts RUN --download DIR`")
    files = list(rows_of(client, LIST_ARTIFACTS, wanted, MOST))
    if not files:
        raise RunhookError(f"run {clean(wanted.run, 60)} has no such files")
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for row, name in zip(files, names_of(files), strict=True):
        try:
            told = _fetch(client, row, folder / name, force=force)
        except (NotFound, Busy, NotStarted, _NotWhole) as problem:
            failed, told = failed + 1, clean(problem)
        out().print(f"{name}: {told}", soft_wrap=True)
    if failed:
        raise RunhookError(f"{failed} of {len(files)} files could not be had")


def names_of(files: Sequence[ArtifactRow]) -> list[str]:
    """Return a safe file name for each, no two the same, whether or not a file system knows case."""
    used = UsedNames()
    return [used.reserve(safe_file_name(row.name)) for row in files]


def _fetch(client: Client, row: ArtifactRow, target: Path, *, force: bool) -> str:
    """Fetch one file, and return what is to be said of it. Raises NotFound, Busy, NotStarted and _NotWhole."""
    if os.path.lexists(target) and not force:
        if target.is_file() and row.sha256 and _digest(target) == row.sha256:
            return "is there already"
        raise _NotWhole("is there already, and is left as it is; --force replaces it")
    if target.is_dir() and not target.is_symlink():
        raise _NotWhole("a folder of this name is there, and is left as it is")
    wanted = ContentParameters(run_id=row.run_id, name=row.name, source=row.source, skyvern=True)
    for left in range(TRIES - 1, -1, -1):
        try:
            part, size, encoding = _receive(client, wanted, target)
            break
        except (Busy, NotStarted):
            if not left:
                raise
            time.sleep(PAUSE)
    if row.sha256 and not encoding and _digest(part) != row.sha256:
        part.unlink()
        raise _NotWhole("what is stored is not what the run's checksum is of; it was not kept")
    if encoding:
        target = target.with_name(f"{target.name}.{safe_file_name(encoding)}")
        if os.path.lexists(target) and not force:
            raise _NotWhole(f"{target.name} is there already, and is left as it is; --force replaces it")
    part.replace(target)
    checked = ", its checksum is right" if row.sha256 and not encoding else ""
    return f"{shown_size(size)}{checked}" + (f", stored as {clean(encoding, 40)}: {target.name}" if encoding else "")


def _receive(client: Client, wanted: ContentParameters, target: Path) -> tuple[Path, int, str]:
    """Write the file beside `target`, and return where, its bytes and its content coding.

    What is there of exactly this version is gone on with.
    """
    with client.content(wanted) as found:
        part = target.with_name(f".{target.name[:100]}.{hashlib.sha256(found.tag.encode()).hexdigest()[:12]}.part")
        have = part.stat().st_size if part.is_file() and not part.is_symlink() else 0
        if not have:
            return part, _write(part, target.name, found.size, 0, found.chunks), found.encoding
    if have >= found.size:
        have = 0
    with client.content(wanted, have, found.tag) as rest:
        if rest.tag != found.tag:
            raise Busy("it is replaced just now; try again")
        return part, _write(part, target.name, rest.size, rest.start, rest.chunks), rest.encoding


def _write(part: Path, name: str, size: int, start: int, chunks: Iterator[bytes]) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if start else os.O_TRUNC)
    try:
        with os.fdopen(os.open(part, flags, 0o666), "wb") as file, ProgressLine(name, size) as progress:
            file.seek(start)
            file.truncate()
            for chunk in chunks:
                file.write(chunk)
                progress.show(file.tell())
            have = file.tell()
    except OSError as error:  # such as a disk that is full: the system does not say for which file
        error.filename = error.filename or str(part)
        raise
    if have != size:
        raise NotStarted(f"it broke off after {have:,} of {size:,} bytes")
    return size


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ):
            digest.update(chunk)
    return digest.hexdigest()
