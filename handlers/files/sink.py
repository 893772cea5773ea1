"""The sink `files`: a mirror whose store is a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import ByteSize, Field, field_validator

from handlers.contract import Delivery, ReadableFile, Receipt, Services, Sink, Unavailable
from handlers.files.store import LocalStore
from handlers.mirror.mirror import Mirror
from handlers.mirror.options import MirrorOptions
from handlers.support.private_file import folder_for


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
        try:
            there = folder_for(path)
        except PermissionError as error:
            raise Unavailable(str(error)) from None
        return f"{path} {'can be written' if there == path else 'is made with the first delivery'}"

    def close(self) -> None:
        """Close connections and let idle threads end."""
        self._mirror.close()
