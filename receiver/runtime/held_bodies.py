"""How many bytes of requests' bodies one process holds, and which of them goes when there is no room for more.

Bytes count when they have come in: announcing many costs their sender nothing. Where there is no room, the slowest of
those bodies ends whose sender is not known yet, and not the one that has just come: a stranger must not shut out a
webhook with a right signature. Nor must callers with keys, however many they are: a part of the room is never theirs.
For one event loop.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self


class NoRoom(Exception):
    """There is no room for more bytes. The message says why."""


class OwnerHasEnough(NoRoom):
    """Its owner holds as many bytes as one may."""


class HeldBodies:
    """`limit`: bytes of all. `share`: the part of them that one owner may hold of what the others leave free.
    `owned`: the part of them that all owners together may hold."""

    def __init__(self, limit: int, share: float = 1.0, owned: float = 1.0) -> None:
        self._limit = limit
        self._share = share
        self._owned_limit = int(limit * owned)
        self._owned = 0
        self._unknown: dict[HeldBody, None] = {}  # those whose sender is not known yet
        self._by_owner: Counter[str] = Counter()
        self.bytes = 0
        self.evicted = 0

    def hold(self) -> HeldBody:
        """Return a new body without bytes, to be used in a `with`."""
        return HeldBody(self)

    def take(self, size: int) -> None:
        """Count a body that came whole, until `give`. It is there: whatever ends for it, it stays."""
        self.bytes += size
        if self.bytes > self._limit:
            with suppress(NoRoom):
                self._evict(None, 0)

    def give(self, size: int) -> None:
        """Count a body no longer that was taken."""
        self.bytes -= size

    def _evict(self, but: HeldBody | None, wanted: int) -> None:
        """End the slowest of the unknown until there is room for `wanted` bytes. Raises NoRoom."""
        now = time.monotonic()
        while self.bytes + wanted > self._limit:
            others = (each for each in self._unknown if each is not but)
            slowest = min(others, key=lambda each: each.rate(now), default=None)
            if slowest is None:
                raise NoRoom("too many bytes of other requests are held")
            self.evicted += 1
            slowest.end()


class HeldBody:
    """The bytes of one request's body."""

    __slots__ = ("_began", "_bodies", "_on_evict", "_owner", "_size", "evicted")

    def __init__(self, bodies: HeldBodies) -> None:
        self._bodies = bodies
        self._size = 0
        self._owner = ""
        self._began = 0.0
        self._on_evict: Callable[[], object] | None = None
        self.evicted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free()

    def receive(self, on_evict: Callable[[], object]) -> None:
        """Begin to receive a body of a sender who is not known yet. `on_evict`: called when it must end."""
        self._began = time.monotonic()
        self._on_evict = on_evict
        self._bodies._unknown[self] = None

    def add(self, size: int) -> None:
        """Count `size` bytes more. Raises NoRoom."""
        bodies = self._bodies
        if self.evicted:
            raise NoRoom("too many bytes of other requests are held")
        if self._owner:
            if bodies._owned + size > bodies._owned_limit:
                raise NoRoom("too many bytes of other requests are held")
            others = bodies.bytes - bodies._by_owner[self._owner]
            if bodies._by_owner[self._owner] + size > bodies._share * (bodies._limit - others):
                raise OwnerHasEnough(
                    "bodies of other requests with this key are held, and other keys need room as well"
                )
        if bodies.bytes + size > bodies._limit:
            bodies._evict(self, size)
        if self._owner:
            bodies._by_owner[self._owner] += size
            bodies._owned += size
        bodies.bytes += size
        self._size += size

    def known(self, owner: str = "") -> None:
        """Note that the sender is known: the body ends for no other one. `owner`: whose bytes they are."""
        self._bodies._unknown.pop(self, None)
        if owner and not self._owner:
            self._owner = owner
            self._bodies._by_owner[owner] += self._size
            self._bodies._owned += self._size

    def rate(self, now: float) -> float:
        """Return bytes a second so far."""
        return self._size / max(now - self._began, 0.001)

    def end(self) -> None:
        """Give the bytes back, and tell who receives them."""
        self.evicted = True
        self._free()
        if self._on_evict is not None:
            self._on_evict()

    def _free(self) -> None:
        bodies = self._bodies
        bodies._unknown.pop(self, None)
        bodies.bytes -= self._size
        if self._owner:
            bodies._by_owner[self._owner] -= self._size
            bodies._owned -= self._size
            if not bodies._by_owner[self._owner]:
                del bodies._by_owner[self._owner]
            self._owner = ""
        self._size = 0
