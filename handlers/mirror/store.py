"""The interface of a mirror's store: keys and bytes. S3 and local folders implement it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from handlers.contract import Delivery, ReadableFile
from handlers.support.deadline import Deadline

if TYPE_CHECKING:
    from handlers.mirror.download import IncomingFile

# Maximum size of a manifest read back, in bytes.
MAX_DOCUMENT = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored document. `version` identifies exactly these bytes."""

    body: bytes
    version: str


@dataclass(frozen=True, slots=True)
class ObjectTarget:
    """Where one object of a delivery is written. `mutable`: it will be replaced later, so caches must not keep it."""

    key: str
    content_type: str
    delivery: Delivery
    deadline: Deadline
    mutable: bool = False


class Store(Protocol):
    """Bytes by key; keys use `/`. Methods raise Refused and Unavailable.

    A write is atomic: a reader sees the complete object or none.
    """

    def list_directory(self, directory: str, deadline: Deadline) -> Mapping[str, int]:
        """Return the names and sizes in bytes of the objects directly under `directory`, which ends in /."""
        ...

    def identify(self, key: str, size: int, deadline: Deadline) -> tuple[str, str] | None:
        """Return SHA-256 (hex) and content coding of the `size` bytes at `key`; None when that needs a transfer."""
        ...

    def read(self, key: str, deadline: Deadline) -> Stored | None:
        """Return the document at `key`, up to MAX_DOCUMENT bytes; None when it is missing."""
        ...

    def find_file(self, key: str, deadline: Deadline) -> ReadableFile | None:
        """Return the object at `key`, of any size, to read parts of it; None when it is missing."""
        ...

    def put(self, target: ObjectTarget, body: bytes) -> None:
        """Write `body`, replacing any object."""
        ...

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        """Write the bytes of `incoming`. When iterating them raises, nothing is stored."""
        ...

    def compare_and_swap(self, target: ObjectTarget, body: bytes, version: str | None) -> bool:
        """Write `body` if the stored version is `version` (None: nothing stored). Else return False."""
        ...

    def delete(self, keys: Sequence[str], deadline: Deadline) -> None:
        """Delete these objects with all their versions. Missing ones count as deleted."""
        ...

    def close(self) -> None:
        """Close connections and let idle threads end."""
        ...

    def location(self, key: str) -> str:
        """Return the location of `key` for receipts."""
        ...

    def url(self, key: str, /) -> str:
        """Return a permanent link to `key`, or ""."""
        ...
