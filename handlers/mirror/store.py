"""What a mirror needs of the store that it writes to: keys and bytes. S3 and a local folder implement it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from handlers.contract import Delivery, ReadableFile
from handlers.support.deadline import Deadline

if TYPE_CHECKING:
    from handlers.mirror.download import IncomingFile

# Largest manifest that is read back, in bytes.
MAX_DOCUMENT = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it was read. `version` identifies exactly these bytes."""

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
        """Return SHA-256 (hex) and content coding of the `size` bytes at `key`; None when they cost a transfer."""
        ...

    def read(self, key: str, deadline: Deadline) -> Stored | None:
        """Return the document at `key`, up to MAX_DOCUMENT bytes; None when it is missing."""
        ...

    def find_file(self, key: str, deadline: Deadline) -> ReadableFile | None:
        """Return the object at `key`, of any size, to read parts of it; None when it is missing."""
        ...

    def put(self, target: ObjectTarget, body: bytes) -> None:
        """Write `body`, over whatever is there."""
        ...

    def put_stream(self, target: ObjectTarget, incoming: IncomingFile) -> None:
        """Write the bytes of `incoming`. When iterating them raises, the store is left as it was."""
        ...

    def compare_and_swap(self, target: ObjectTarget, body: bytes, version: str | None) -> bool:
        """Write `body` if the stored version is still `version` (None: nothing is stored). False when it is not."""
        ...

    def delete(self, keys: Sequence[str], deadline: Deadline) -> None:
        """Delete these objects, and all versions that the store keeps of them. What is missing counts as deleted."""
        ...

    def close(self) -> None:
        """Close connections and let idle threads end."""
        ...

    def location(self, key: str) -> str:
        """Return how a receipt names `key`."""
        ...

    def url(self, key: str, /) -> str:
        """Return a lasting link to `key`, or ""."""
        ...
