"""How much one key may have under way: calls of Skyvern, and bytes of bodies."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request

from receiver.ingest.held_bodies import HeldBodies, NoRoom, OwnerHasEnough
from receiver.submit.connection import chunks_of
from receiver.submit.long_poll import TooManyWaiters, WaiterLimit
from receiver.submit.replies import Refusal, error

# Calls that may be under way, and the part of them that one key may take of what others leave free.
MAX_CALLS: Final = 200
CALL_SHARE: Final = 0.5
# Seconds in which a request's body must be received.
BODY_TIMEOUT: Final = 120.0


class CallLimits:
    """The limits of all keys in this process. `max_body`: bytes of one body."""

    def __init__(self, bodies: HeldBodies, max_body: int) -> None:
        self._bodies = bodies
        self._max_body = max_body
        self._calls = WaiterLimit(MAX_CALLS, CALL_SHARE)

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
                async for chunk in chunks_of(request, self._max_body, BODY_TIMEOUT):
                    self._bodies.add(held, len(chunk))
                    received += chunk
            except OwnerHasEnough as problem:
                raise Refusal(error(429, str(problem), retry_after="2")) from None
            except NoRoom as problem:
                raise Refusal(error(503, str(problem), retry_after="2")) from None
            yield bytes(received)
