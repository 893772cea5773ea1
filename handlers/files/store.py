"""Bytes by key below a local folder. It knows no runs; the mirror chooses contents and names.

A file is written in a hidden folder, synced, moved to its place, and its folder synced. Leftovers of killed processes
are removed at the first write of a process, and hourly. A file with a content coding (gzip) is stored encoded, with the
coding in a hidden file beside it, which copies of the folder include.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from io import FileIO
from pathlib import Path

from handlers.contract import ReadableFile, Unavailable
from handlers.files.disk import PARTS, READ, new_file, open_subfolder, sweep, translated_errors
from handlers.mirror.download import IncomingFile
from handlers.mirror.store import MAX_DOCUMENT, ObjectTarget, Stored
from handlers.support import wording
from handlers.support.deadline import Deadline
from handlers.support.private_file import make_private_folder

_CHUNK = 1 << 20  # bytes of a file that are read at once
_CHECK_EVERY = 4 << 20  # bytes written between two checks of the free disk space
_SWEEP_EVERY = 3600.0  # seconds
_CODING = re.compile(r"[\w!#$%&'*+.^`|~, -]{0,40}", re.ASCII)  # longer headers are cut earlier


def no_room(root: Path, free: int, reserve: int) -> str:
    """Return a message if less than the reserve is free on a disk; else ""."""
    what = f"the disk that holds {root} has {wording.size(free)} free, less than the reserve of {wording.size(reserve)}"
    return what if free < reserve else ""


class LocalStore:
    """The Store protocol over a local folder. `root` may be a symbolic link; links below it are not followed.

    `reserve`: bytes of disk space to leave free.
    """

    def __init__(self, root: Path, reserve: int = 0) -> None:
        self._root = root
        self._reserve = reserve
        self._sweep_at = 0.0  # by time.monotonic()

    def list_directory(self, directory: str, deadline: Deadline) -> Mapping[str, int]:
        """See Store. {} when there is no such folder; hidden files are left out."""
        deadline.remaining()
        sizes = {}
        with translated_errors(self._root), self._opened(directory, make=False) as folder:
            if folder is not None:
                for name in os.listdir(folder):  # noqa: PTH208 - of an open folder
                    with suppress(FileNotFoundError):
                        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode) and not name.startswith("."):
                            sizes[name] = status.st_size
        return sizes

    def identify(self, key: str, size: int, deadline: Deadline) -> tuple[str, str] | None:
        """See Store. Reads the whole file; None when it has another size or is missing."""
        digest = hashlib.sha256()
        with self._opened_file(key) as file:
            for chunk in _chunks(file, deadline):
                digest.update(chunk)
            if file is None or file.tell() != size:
                return None
        return digest.hexdigest(), self._encoding(key)

    def read(self, key: str, deadline: Deadline) -> Stored | None:
        """See Store. The version is the SHA-256; None also for a document over MAX_DOCUMENT."""
        body = bytearray()
        with self._opened_file(key) as file:
            for chunk in _chunks(file, deadline):
                body += chunk
                if len(body) > MAX_DOCUMENT:
                    return None
            return None if file is None else Stored(bytes(body), hashlib.sha256(body).hexdigest())

    def find_file(self, key: str, deadline: Deadline) -> ReadableFile | None:
        """See Store. The version is derived from the file's stat."""
        deadline.remaining()
        with self._opened_file(key) as file:
            if file is None:
                return None
            size, version = os.fstat(file.fileno()).st_size, _version(file)
        return ReadableFile(size, version, self._encoding(key), lambda *part: self._part(key, version, *part))

    def _encoding(self, key: str) -> str:
        """Return the content coding recorded beside a file; "" without a valid one."""
        directory, slash, name = key.rpartition("/")
        with self._opened_file(directory + slash + _note_name(name)) as note:
            encoding = note.read(41).decode("ascii", "replace") if note is not None else ""
        return encoding if _CODING.fullmatch(encoding) else ""

    def _part(self, key: str, version: str, start: int, end: int) -> Iterator[bytes]:
        with self._opened_file(key) as file:
            if file is None or _version(file) != version:
                raise Unavailable("the file has been replaced or removed")
            file.seek(start)
            while start < end and (chunk := file.read(min(_CHUNK, end - start))):
                start += len(chunk)
                yield chunk

    def put(self, target: ObjectTarget, body: bytes) -> None:
        """See Store."""
        self._write(target, (body,))

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        """See Store. A file that fails in the middle is removed.

        Lack of disk space delays only its delivery: smaller files may fit.
        """
        self._write(target, incoming, expected=incoming.expected, streamed=True, encoding=incoming.content_encoding)

    def compare_and_swap(self, target: ObjectTarget, body: bytes, version: str | None) -> bool:
        """See Store. All writers of the file hold the folder's lock while they compare and replace."""
        directory, _, _ = target.key.rpartition("/")
        with translated_errors(self._root), self._opened(directory, make=True) as folder:
            assert folder is not None
            fcntl.flock(folder, fcntl.LOCK_EX)
            current = self.read(target.key, target.deadline)
            if (current.version if current else None) != version:
                return False
            self._write(target, (body,))
            return True

    def delete(self, keys: Sequence[str], deadline: Deadline) -> None:
        """See Store. Removes empty folders, too."""
        for key in keys:
            deadline.remaining()
            directory, _, name = key.rpartition("/")
            with translated_errors(self._root), self._opened(directory, make=False) as folder:
                if folder is None:
                    continue
                for each in (name, _note_name(name)):
                    with suppress(FileNotFoundError):
                        os.unlink(each, dir_fd=folder)
                os.fsync(folder)
            with suppress(OSError):  # it has other files
                while directory:
                    directory, _, name = directory.rpartition("/")
                    with self._opened(directory, make=False) as folder:
                        if folder is None:
                            break
                        os.rmdir(name, dir_fd=folder)

    def close(self) -> None:
        """See Store. It keeps nothing open."""

    def location(self, key: str) -> str:
        """Return the path of `key`."""
        return str(self._root / key) + ("/" if key.endswith("/") else "")

    def url(self, _key: str) -> str:
        """Return "": a local file has no link."""
        return ""

    @contextmanager
    def _opened_file(self, key: str) -> Iterator[FileIO | None]:
        """Open a regular file to read; None when there is no such file."""
        directory, _, name = key.rpartition("/")
        with translated_errors(self._root), self._opened(directory, make=False) as folder:
            file = None
            if folder is not None:
                with suppress(FileNotFoundError, IsADirectoryError):
                    file = FileIO(name, opener=lambda path, _: os.open(path, READ, dir_fd=folder))
            with file or nullcontext():
                yield file if file and stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None

    def _write(
        self,
        target: ObjectTarget,
        chunks: Iterable[bytes],
        *,
        expected: int = 0,
        streamed: bool = False,
        encoding: str = "",
    ) -> None:
        """Replace the file by the chunks; keep the old one when iterating them raises.

        Raises Unavailable when they would use the reserve. `expected`: their size in bytes.
        """
        directory, _, name = target.key.rpartition("/")
        with (
            translated_errors(self._root),
            self._opened(PARTS, make=True) as parts,
            self._opened(directory, make=True) as folder,
        ):
            assert parts is not None
            assert folder is not None
            if time.monotonic() >= self._sweep_at:
                self._sweep_at = time.monotonic() + _SWEEP_EVERY
                sweep(parts)
            self._check_room(folder, expected, streamed=streamed)
            unchecked = 0
            with new_file(parts, folder, name) as write:
                for chunk in chunks:
                    target.deadline.remaining()
                    write(chunk)
                    unchecked += len(chunk)
                    if unchecked >= _CHECK_EVERY:
                        unchecked = 0
                        self._check_room(folder, 0, streamed=streamed)
                # Before the rename: an existing file is not written again, so it would never get its coding.
                _note_encoding(parts, folder, name, encoding)

    def _check_room(self, folder: int, size: int, *, streamed: bool) -> None:
        """Raise Unavailable when `size` more bytes would leave less than the reserve on the folder's disk."""
        status = os.fstatvfs(folder)
        free = status.f_bavail * status.f_frsize
        if trouble := no_room(self._root, free, self._reserve):
            raise Unavailable(trouble, dependency=streamed)
        if size > free - self._reserve:
            raise Unavailable(
                f"a file of {wording.size(size)} does not fit on the disk that holds {self._root}", dependency=True
            )

    @contextmanager
    def _opened(self, directory: str, *, make: bool) -> Iterator[int | None]:
        """Open the folder `directory` below the root, step by step; None when it is missing and `make` is false."""
        descriptor = self._open_root(make=make)
        try:
            for part in directory.split("/"):
                if part and descriptor is not None:
                    following = open_subfolder(descriptor, part, make=make)
                    os.close(descriptor)
                    descriptor = following
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _open_root(self, *, make: bool) -> int | None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return os.open(self._root, flags)
        except FileNotFoundError:
            if not make:
                return None
        make_private_folder(self._root, 0o755)
        return os.open(self._root, flags)


def _note_encoding(parts: int, folder: int, name: str, encoding: str) -> None:
    """Record the content coding of the file `name` beside it, or remove the record."""
    note = _note_name(name)
    if encoding:
        with new_file(parts, folder, note) as write:
            write(encoding.encode("ascii", "replace"))
    else:
        with suppress(FileNotFoundError):
            os.unlink(note, dir_fd=folder)


def _note_name(name: str) -> str:
    """Return the name of a file's coding record. Names of stored files never begin with a dot."""
    return f".{name}.encoding"


def _chunks(file: FileIO | None, deadline: Deadline) -> Iterator[bytes]:
    while file is not None and (chunk := file.read(_CHUNK)):
        deadline.remaining()
        yield chunk


def _version(file: FileIO) -> str:
    status = os.fstat(file.fileno())
    return f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
