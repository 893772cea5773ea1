"""How many bytes of requests' bodies one process holds. For one event loop.

Bytes count when they have come in: announcing many costs their sender nothing. When there is no room for more, the
slowest body of an unknown sender ends, so that strangers can't shut out a webhook with the right signature. Callers
with keys have a part of the room: each of them, and all together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

FULL = "too many bytes of other requests are held"


class NoRoom(Exception):
    """There is no room for more bytes. The message says why."""


class OwnerHasEnough(NoRoom):
    """Its owner holds as many bytes as one may."""


@dataclass(slots=True, eq=False)
class HeldBody:
    """The bytes of one request's body. `on_evict`: called when it must end."""

    owner: str
    size: int = 0
    began: float = field(default_factory=time.monotonic)
    evicted: bool = False
    on_evict: Callable[[], object] = lambda: None


class HeldBodies:
    """`limit`: bytes of all. `share`, `owned`: the part of them for one owner, and for all owners together."""

    def __init__(self, limit: int, share: float = 1.0, owned: float = 1.0) -> None:
        self._limit, self._share, self._owned = limit, int(limit * share), int(limit * owned)
        self._by_owner: Counter[str] = Counter()
        self._unknown: dict[HeldBody, None] = {}  # those that may end for others
        self.bytes = 0
        self.evicted = 0

    @contextmanager
    def hold(self, owner: str = "") -> Iterator[HeldBody]:
        """Hold a body, which is counted until the block ends. `owner`: whose it is; "" while the sender is unknown."""
        body = HeldBody(owner)
        if not owner:
            self._unknown[body] = None
        try:
            yield body
        finally:
            self.release(body)

    def take(self, size: int) -> None:
        """Count a body that came in one piece, until `give`. It is there: others end for it, but it stays."""
        self.bytes += size
        if self.bytes > self._limit:
            self._make_room(0)

    def give(self, size: int) -> None:
        """Stop counting a body that was taken."""
        self.bytes -= size

    def add(self, body: HeldBody, size: int) -> None:
        """Count `size` more bytes of `body`. Raises NoRoom."""
        if body.evicted:
            raise NoRoom(FULL)
        if body.owner:
            if self._by_owner[body.owner] + size > self._share:
                raise OwnerHasEnough("bodies of other requests with this key are held, and other keys need room too")
            if self._by_owner.total() + size > self._owned:
                raise NoRoom(FULL)
        if self.bytes + size > self._limit and not self._make_room(size, body):
            raise NoRoom(FULL)
        self._count(body, size)

    def _count(self, body: HeldBody, size: int) -> None:
        self.bytes += size
        body.size += size
        if body.owner:
            self._by_owner[body.owner] += size

    def _make_room(self, size: int, newest: HeldBody | None = None) -> bool:
        """End the slowest unknown bodies but `newest`, until there is room for `size` bytes. False if that fails."""
        now = time.monotonic()
        while self.bytes + size > self._limit:
            others = (each for each in self._unknown if each is not newest)
            slowest = min(others, key=lambda each: each.size / max(now - each.began, 0.001), default=None)
            if slowest is None:
                return False
            self.evicted += 1
            slowest.evicted = True
            self.release(slowest)
            slowest.on_evict()
        return True

    def complete(self, body: HeldBody) -> None:
        """Note that all of `body` came in: it ends for no other."""
        self._unknown.pop(body, None)

    def release(self, body: HeldBody) -> None:
        """Stop counting `body`."""
        self.complete(body)
        self._count(body, -body.size)
