"""How much one key may have under way: waiting requests, calls, and bytes of bodies."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request

from receiver.ingest.held_bodies import HeldBodies, NoRoom, OwnerHasEnough
from receiver.web.responses import Refusal, chunks_of, error

# Calls that may be under way, and the share of them that one key may take of what others leave free.
MAX_CALLS: Final = 200
CALL_SHARE: Final = 0.5
# Seconds in which a request's body must be received.
BODY_TIMEOUT: Final = 120.0


class TooManyWaiters(Exception):
    """As many requests wait already as may, in all or with one key. The message says which."""


class WaiterLimit:
    """How many requests of this process may wait at once: `limit` in all. One key has at most `share` (from 0 to 1) of
    the places that the others leave, so that no key, and no few of them, can take all."""

    def __init__(self, limit: int, share: float) -> None:
        self._limit = limit
        self._share = share
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._held.total()

    @contextlib.contextmanager
    def place(self, key_id: str) -> Iterator[None]:
        """Hold a place for a request with this key. Raises TooManyWaiters."""
        others = len(self) - self._held[key_id]
        if len(self) >= self._limit:
            raise TooManyWaiters("too many requests wait for runs")
        if self._held[key_id] >= max(1, int(self._share * (self._limit - others))):
            raise TooManyWaiters(
                f"requests with this key wait for runs already ({self._held[key_id]}), and others need places as well"
            )
        self._held[key_id] += 1
        try:
            yield
        finally:
            self._held[key_id] -= 1
            if not self._held[key_id]:
                del self._held[key_id]


class CallLimits:
    """The limits of all keys in this process. `max_body`, `body_time`: bytes of one body, seconds in which it comes."""

    def __init__(
        self, bodies: HeldBodies, max_body: int, calls: int = MAX_CALLS, body_time: float = BODY_TIMEOUT
    ) -> None:
        self._body_time = body_time
        self._bodies = bodies
        self._max_body = max_body
        self._calls = WaiterLimit(calls, CALL_SHARE)

    @contextlib.contextmanager
    def call(self, key_id: str) -> Iterator[None]:
        """Hold a place for a call. Raises Refusal."""
        try:
            with self._calls.place(key_id):
                yield
        except TooManyWaiters:
            raise Refusal(error(429, "Too many calls are under way with this key", retry_after="2")) from None

    @asynccontextmanager
    async def body(self, request: Request, key_id: str) -> AsyncIterator[bytes]:
        """Receive the body, and count its bytes, and the call, until the request is answered. Raises Refusal."""
        with self.call(key_id), self._bodies.hold(key_id) as held:
            received = bytearray()
            try:
                async for chunk in chunks_of(request, self._max_body, self._body_time):
                    self._bodies.add(held, len(chunk))
                    received += chunk
            except OwnerHasEnough as problem:
                raise Refusal(error(429, str(problem), retry_after="2")) from None
            except NoRoom as problem:
                raise Refusal(error(503, str(problem), retry_after="2")) from None
            yield bytes(received)
