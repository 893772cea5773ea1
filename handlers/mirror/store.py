"""What a mirror needs of the place it writes to: keys and bytes. S3 and a folder on disk are such places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from handlers.contract import Delivery
from handlers.mirror.download import Incoming
from handlers.support.guarded_client import Deadline

MAX_DOCUMENT = 32 * 1024 * 1024
"""Bytes of a manifest that is read back at the most."""
FETCHING_THREADS = 32
"""Files that all runs together fetch at the same time, besides one for each run."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it was read. `version` stands for exactly these bytes."""

    body: bytes
    version: str


@dataclass(frozen=True, slots=True)
class ObjectTarget:
    """Where one object of a delivery goes. `content`: its content type. `moves`: another one will take its place, so
    nobody on the way to a reader should keep it."""

    key: str
    content: str
    delivery: Delivery
    deadline: Deadline
    moves: bool = False


class Store(Protocol):
    """A place with keys and bytes. Keys use `/`. Errors are the contract's: Refused and Unavailable.

    What was written whole is there; what was not is not: no reader ever sees half of it.
    """

    def survey(self, directory: str, deadline: Deadline) -> Mapping[str, int]:
        """Names and sizes of what is kept directly under `directory` (which ends in /)."""
        ...

    def digest(self, key: str, size: int, deadline: Deadline) -> str | None:
        """SHA-256 (hex) of what is kept at `key`, which has `size` bytes; None when that can't be told cheaply."""
        ...

    def read(self, key: str, deadline: Deadline) -> Stored | None:
        """What is at `key`, up to MAX_DOCUMENT bytes; None when nothing is."""
        ...

    def put(self, target: ObjectTarget, body: bytes) -> None:
        """Write `body`."""
        ...

    def create(self, target: ObjectTarget, body: bytes) -> bool:
        """Write `body` where nothing is. False when something is, or when this place can't tell: look then.

        A place may find out with the first call whether it can tell, and write twice for that: let that one be for
        something that is the same each time.
        """
        ...

    def receive(self, target: ObjectTarget, incoming: Incoming) -> None:
        """Write what comes in, unless iterating it raises: then nothing may be there that was not before."""
        ...

    def swap(self, target: ObjectTarget, body: bytes, version: str | None) -> bool:
        """Write `body` if what is there still is `version` (None: nothing). False when it is not."""
        ...

    def place(self, key: str) -> str:
        """How a receipt names `key`."""
        ...

    def url(self, key: str, /) -> str:
        """A lasting link to `key`, or ""."""
        ...
