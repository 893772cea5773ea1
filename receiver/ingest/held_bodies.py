"""How many bytes of requests' bodies one process holds. For one event loop.

Bytes count when they have come in: announcing many costs their sender nothing. Callers with keys have a share of the
room: each of them, and all together. The rest is for webhooks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class NoRoom(Exception):
    """There is no room for more bytes. The message says why."""

    def __init__(self, reason: str = "too many bytes of other requests are held") -> None:
        super().__init__(reason)


class OwnerHasEnough(NoRoom):
    """Its owner holds as many bytes as one may."""


@dataclass(slots=True)
class HeldBody:
    """The bytes of one request's body. `owner`: whose it is; "" while the sender is unknown."""

    owner: str
    size: int = 0


class HeldBodies:
    """`limit`: bytes of all. `share`, `owned`: the share of them for one owner, and for all owners together."""

    def __init__(self, limit: int, share: float = 1.0, owned: float = 1.0) -> None:
        self._limit, self._share, self._owned = limit, int(limit * share), int(limit * owned)
        self._by_owner: Counter[str] = Counter()
        self.bytes = 0

    @contextmanager
    def hold(self, owner: str = "", size: int = 0) -> Iterator[HeldBody]:
        """Hold a body, which is counted until the block ends. `size`: bytes that are here already: never refused."""
        body = HeldBody(owner)
        self._count(body, size)
        try:
            yield body
        finally:
            self._count(body, -body.size)

    def add(self, body: HeldBody, size: int) -> None:
        """Count `size` more bytes of `body`. Raises NoRoom."""
        if body.owner:
            if self._by_owner[body.owner] + size > self._share:
                raise OwnerHasEnough("bodies of other requests with this key are held, and other keys need room too")
            if self._by_owner.total() + size > self._owned:
                raise NoRoom
        if self.bytes + size > self._limit:
            raise NoRoom
        self._count(body, size)

    def _count(self, body: HeldBody, size: int) -> None:
        self.bytes += size
        body.size += size
        if body.owner:
            self._by_owner[body.owner] += size
