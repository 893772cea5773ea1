"""The sink `files`: a mirror whose store is a local folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import ByteSize, Field, field_validator

from handlers.contract import Services, Unavailable
from handlers.mirror.options import MirrorOptions
from handlers.mirror.sink import MirrorSink
from handlers.support.private_file import folder_for

if TYPE_CHECKING:
    from handlers.files.store import LocalStore


class FilesOptions(MirrorOptions):
    """Options of a `files` sink."""

    path: Path = Field(description="The folder to store everything in; it is created if missing.")

    reserve: ByteSize = Field(
        ByteSize(512 * 1024**2),
        ge=0,
        description="Free disk space to leave: more than spool.reserve_bytes on the same disk.",
    )

    @field_validator("path")
    @classmethod
    def _path(cls, value: Path) -> Path:
        if not str(value).strip() or value == Path():
            raise ValueError("is not a valid folder: use one such as var/archive")
        return value


class FilesSink(MirrorSink[FilesOptions]):
    """Stores each event and its run's files under `path`."""

    Options = FilesOptions
    shares_worker: ClassVar[bool] = True

    def __init__(self, name: str, options: FilesOptions, services: Services) -> None:
        super().__init__(name, options, services)
        self._path = options.path.absolute()

    def make_store(self) -> LocalStore:
        """See MirrorSink."""
        from handlers.files.store import LocalStore

        return LocalStore(self._path, self.options.reserve)

    def check(self) -> str:
        """Check the folder, or its nearest existing parent, and the free space of its disk."""
        from handlers.files.store import no_room

        try:
            there = folder_for(self._path)
        except PermissionError as error:
            raise Unavailable(str(error)) from None
        if trouble := no_room(self._path, shutil.disk_usage(there).free, self.options.reserve):
            raise Unavailable(trouble)
        return f"{self._path} {'can be written' if there == self._path else 'is made with the first delivery'}"
