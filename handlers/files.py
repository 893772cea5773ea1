"""The sink `files`: each event and its run's files in a local folder, fsynced before the delivery is accepted.

A file is made anew under a temporary name, synced, renamed, and its folder synced. Folders are opened one inside the
other and never through a symbolic link, so neither a payload nor a link planted below the root leads out of it. This
file knows disks; what is stored under which names is the mirror's decision.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from io import FileIO
from pathlib import Path
from typing import ClassVar

from pydantic import ByteSize, Field, field_validator

from handlers.contract import Delivery, ReadableFile, Receipt, Refused, Services, Sink, Unavailable
from handlers.mirror.download import IncomingFile
from handlers.mirror.mirror import Mirror
from handlers.mirror.options import MirrorOptions
from handlers.mirror.store import MAX_DOCUMENT, ObjectTarget, Stored
from handlers.support.deadline import Deadline

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a planted FIFO must not block
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20  # bytes of a file that are read at once
_CHECK_EVERY = 4 << 20  # bytes written between two looks at the free disk space
_MOST_TRIES = 100  # to make a file that others make or remove at the same time
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class FilesOptions(MirrorOptions):
    """Options of a `files` sink."""

    path: Path = Field(description="The folder to store everything in; it is created if missing.")

    reserve: ByteSize = Field(
        ByteSize(512 * 1024**2),
        ge=0,
        description="Free disk space that is left alone; more than spool.reserve_bytes, for the same disk.",
    )

    @field_validator("path")
    @classmethod
    def _path(cls, value: Path) -> Path:
        if not str(value).strip() or value == Path():
            raise ValueError("a folder such as var/archive is wanted")
        return value


class FilesSink(Sink[FilesOptions]):
    """Stores each event and its run's files under `path`."""

    Options = FilesOptions
    shares_worker: ClassVar[bool] = True
    takes_updates: ClassVar[bool] = True

    def __init__(self, name: str, options: FilesOptions, services: Services) -> None:
        super().__init__(name, options, services)
        self._mirror = Mirror(options, services, LocalStore(options.path.absolute(), options.reserve))

    def send(self, delivery: Delivery) -> Receipt:
        """Store the event. The receipt's id is its folder, `keys` the files in it."""
        return self._mirror.send(delivery)

    def find_file(self, location: str) -> ReadableFile | None:
        """See Sink."""
        return self._mirror.find_file(location)

    def check(self) -> str:
        """Look at the folder, or at the one in which it would be made."""
        path = self.options.path.absolute()
        there = next(each for each in (path, *path.parents) if each.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise Unavailable(f"this user may not write in {there}")
        return f"{path} {'can be written' if there == path else 'is made with the first delivery'}"

    def close(self) -> None:
        """Close connections and let idle threads end."""
        self._mirror.close()


class LocalStore:
    """The Store protocol over a local folder. `root` may be a symbolic link; none below it is followed.

    `reserve`: bytes of free disk space that are left alone.
    """

    def __init__(self, root: Path, reserve: int = 0) -> None:
        self._root = root
        self._reserve = reserve

    def list_directory(self, directory: str, deadline: Deadline) -> Mapping[str, int]:
        """See Store. {} when there is no such folder; temporary files are left out."""
        deadline.remaining()
        found = {}
        with _translated_errors(self._root), self._opened(directory, make=False) as folder:
            if folder is not None:
                for name in os.listdir(folder):  # noqa: PTH208 - of an open folder
                    with suppress(FileNotFoundError):
                        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode) and not _is_temporary(name):
                            found[name] = status.st_size
        return found

    def digest(self, key: str, size: int, deadline: Deadline) -> str | None:
        """See Store. Reads the whole file; None when it has another size or is missing."""
        digest = hashlib.sha256()
        with self._opened_file(key) as file:
            for chunk in _chunks(file, deadline):
                digest.update(chunk)
            return digest.hexdigest() if file is not None and file.tell() == size else None

    def read(self, key: str, deadline: Deadline) -> Stored | None:
        """See Store. The version is the SHA-256; None too for a document over MAX_DOCUMENT."""
        body = bytearray()
        with self._opened_file(key) as file:
            for chunk in _chunks(file, deadline):
                body += chunk
                if len(body) > MAX_DOCUMENT:
                    return None
            return None if file is None else Stored(bytes(body), hashlib.sha256(body).hexdigest())

    def find_file(self, key: str, deadline: Deadline) -> ReadableFile | None:
        """See Store. The version is that of the file's bytes as the file system tells it."""
        deadline.remaining()
        with self._opened_file(key) as file:
            if file is None:
                return None
            size, version = os.fstat(file.fileno()).st_size, _version(file)
        return ReadableFile(size, version, "", lambda *part: self._part(key, version, *part))

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

    def put_if_absent(self, _target: ObjectTarget, _body: bytes) -> bool:
        """See Store. Always False: on a local disk, checking first costs nothing."""
        return False

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        """See Store. A file that fails in the middle is removed.

        One that the disk has no room for counts against its delivery alone, which is tried again: others fit.
        """
        self._write(target, incoming, expected=incoming.expected, streamed=True)

    def discard_partial(self, target: ObjectTarget, size: int) -> None:  # noqa: ARG002 - the protocol's names
        """See Store. A temporary file that another worker writes now is left."""
        directory, _, name = target.key.rpartition("/")
        with _translated_errors(self._root), self._opened(directory, make=False) as folder:
            temporary = _temporary_name(target, name)
            if folder is None or temporary not in os.listdir(folder):  # noqa: PTH208 - of an open folder
                return
            os.close(_open_locked(folder, temporary))
            os.unlink(temporary, dir_fd=folder)

    def compare_and_swap(self, target: ObjectTarget, body: bytes, version: str | None) -> bool:
        """See Store. All writers of the file hold the folder's lock while they compare and replace."""
        directory, _, _ = target.key.rpartition("/")
        with _translated_errors(self._root), self._opened(directory, make=True) as folder:
            assert folder is not None
            fcntl.flock(folder, fcntl.LOCK_EX)
            current = self.read(target.key, target.deadline)
            if (current.version if current else None) != version:
                return False
            self._write(target, (body,))
            return True

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
        with _translated_errors(self._root), self._opened(directory, make=False) as folder:
            file = None
            if folder is not None:
                with suppress(FileNotFoundError, IsADirectoryError):
                    file = FileIO(name, opener=lambda path, _: os.open(path, _READ, dir_fd=folder))
            with file or nullcontext():
                yield file if file and stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None

    def _write(
        self, target: ObjectTarget, chunks: Iterable[bytes], *, expected: int = 0, streamed: bool = False
    ) -> None:
        """Replace the file by the chunks, or leave it as it is when iterating them raises.

        Raises Unavailable when they would leave less than the reserve; `expected`: how many bytes they have.
        """
        directory, _, name = target.key.rpartition("/")
        with _translated_errors(self._root), self._opened(directory, make=True) as folder:
            assert folder is not None
            self._check_room(folder, expected, streamed=streamed)
            temporary = _temporary_name(target, name)
            descriptor = _open_locked(folder, temporary)
            unchecked = 0
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                try:
                    for chunk in chunks:
                        target.deadline.remaining()
                        _write_all(file.write, chunk)
                        unchecked += len(chunk)
                        if unchecked >= _CHECK_EVERY:
                            unchecked = 0
                            self._check_room(folder, 0, streamed=streamed)
                    os.fsync(descriptor)
                    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    with suppress(OSError):
                        os.unlink(temporary, dir_fd=folder)
                    raise
            os.fsync(folder)

    def _check_room(self, folder: int, size: int, *, streamed: bool) -> None:
        """Raise Unavailable when `size` more bytes would leave less than the reserve on the folder's disk."""
        found = os.fstatvfs(folder)
        room = found.f_bavail * found.f_frsize - self._reserve
        if room < 0:
            raise Unavailable(
                f"the disk that holds {self._root} has less than the reserve of {self._reserve:,} bytes free",
                dependency=streamed,
            )
        if size > room:
            raise Unavailable(
                f"a file of {size:,} bytes does not fit on the disk that holds {self._root}", dependency=True
            )

    @contextmanager
    def _opened(self, directory: str, *, make: bool) -> Iterator[int | None]:
        """Open the folder `directory` below the root, step by step; None when it is missing and `make` is false."""
        descriptor = self._open_root(make=make)
        try:
            for part in directory.split("/"):
                if part and descriptor is not None:
                    following = _open_subfolder(descriptor, part, make=make)
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
        self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        for parent in self._root.parents:
            with suppress(OSError):  # a folder that we may not open is not one that we made
                descriptor = os.open(parent, flags)
                os.fsync(descriptor)
                os.close(descriptor)
        return os.open(self._root, flags)


def _chunks(file: FileIO | None, deadline: Deadline) -> Iterator[bytes]:
    while file is not None and (chunk := file.read(_CHUNK)):
        deadline.remaining()
        yield chunk


def _version(file: FileIO) -> str:
    status = os.fstat(file.fileno())
    return f"{status.st_dev}-{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"


def _open_subfolder(folder: int, part: str, *, make: bool) -> int | None:
    """Open the folder `part` inside the open `folder`, making it, synced, if `make` is true."""
    assert part not in (".", "..")
    try:
        return os.open(part, _FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            return None
    with suppress(FileExistsError):
        os.mkdir(part, mode=0o755, dir_fd=folder)
    os.fsync(folder)
    return os.open(part, _FOLDER, dir_fd=folder)


def _open_locked(folder: int, name: str) -> int:
    """Make and lock the file `name`. What is there is removed and never written to: a crashed writer left it, and its
    lock ended with it, or somebody planted a link to another file.

    Raises Unavailable while another worker writes it.
    """
    for _ in range(_MOST_TRIES):
        made = _open_new(folder, name)
        descriptor = _open_old(folder, name) if made is None else made
        if descriptor is None:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_named = _is_named(folder, name, descriptor)
            if is_named and made is not None:
                return descriptor
            if is_named:
                os.unlink(name, dir_fd=folder)
        except BlockingIOError:
            os.close(descriptor)
            raise Unavailable("another worker is writing the same event", retry_after=1.0) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder has renamed it, or it is removed now: start over
    raise Unavailable(f"{name} is being made by others all the time", retry_after=1.0)


def _open_new(folder: int, name: str) -> int | None:
    try:
        return os.open(name, _NEW, 0o644, dir_fd=folder)
    except FileExistsError:
        return None


def _open_old(folder: int, name: str) -> int | None:
    """Open what is there, for its lock; None when it is gone, or was a link or file that can't be opened: removed."""
    try:
        return os.open(name, _READ, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO):
            raise
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        return None


def _is_named(folder: int, name: str, descriptor: int) -> bool:
    """Whether the open file is still the one that is called `name`."""
    opened = os.fstat(descriptor)
    try:
        named = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino)


def _temporary_name(target: ObjectTarget, name: str) -> str:
    """Return the name under which this event writes the file: another event of the run may write it at the same time.

    The same at each attempt, so that one takes over what the last one left.
    """
    writer = hashlib.sha256(target.delivery.event_id.encode(errors="replace")).hexdigest()[:8]
    return f".{name}.{writer}.part"


def _write_all(write: Callable[[memoryview], int | None], chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[write(view) or 0 :]


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")


@contextmanager
def _translated_errors(root: Path) -> Iterator[None]:
    """Raise Refused or Unavailable for the disk's errors inside."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise Refused("a name is too long for the file system") from None
        if error.errno in _FULL:
            raise Unavailable(f"the disk that holds {root} is full") from None
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Unavailable(f"in {root} something that is no folder is where a folder belongs") from None
        raise Unavailable(f"{root} can't be used: {os.strerror(error.errno or errno.EIO)}") from None
