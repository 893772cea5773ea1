"""Streams of server-sent events, and one task that reads the ledger for all of them while there is one.

The tail of the API and the live parts of the console are such streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from starlette.responses import Response

from receiver.errors import Busy
from receiver.ledger import LedgerUnavailable
from receiver.ledger.async_ledger import limit_waits
from receiver.runtime.background import Background
from receiver.submit.connection import StreamedResponse
from receiver.submit.long_poll import TooManyWaiters, WaiterLimit
from receiver.web import sse

# Streams of one process, and the part of them that one client may have of what others leave.
MAX_STREAMS: Final = 1000
SHARE: Final = 0.5


class Streams:
    """The streams of one process. `look`: reads the ledger once, tells the streams what is new, and returns the seconds
    until the next look; it may raise LedgerUnavailable. `name`: of its task."""

    def __init__(self, background: Background, name: str, look: Callable[[], Awaitable[float]]) -> None:
        self._background = background
        self._name = name
        self._look = look
        self._places = WaiterLimit(MAX_STREAMS, SHARE)
        self.stopped = False

    def respond(self, client: str, opening: bytes, events: Callable[[], AsyncGenerator[bytes, None]]) -> Response:
        """Return a stream for a client: `opening`, then `events`. Raises Busy when it has too many."""
        try:
            with self._places.place(client):
                pass  # the place is held from the first event on: a stream may never be read
        except TooManyWaiters:
            raise Busy("too many streams are open", retry_after=5) from None
        return StreamedResponse(self._held(client, opening, events), 200, sse.HEADERS)

    async def _held(
        self, client: str, opening: bytes, events: Callable[[], AsyncGenerator[bytes, None]]
    ) -> AsyncGenerator[bytes, None]:
        with suppress(TooManyWaiters, LedgerUnavailable), self._places.place(client):  # else the client comes back
            yield opening
            if not self.stopped:
                async for data in events():
                    yield data

    def keep_looking(self) -> None:
        """Begin to look, unless that is under way. Called by each stream when it begins."""
        self._background.keep(self._name, self._run)

    async def _run(self) -> None:
        while len(self._places) and not self.stopped:
            pause = 1.0
            with suppress(LedgerUnavailable):
                limit_waits()  # and not what is left to the request that began this
                pause = await self._look()
            await asyncio.sleep(pause)
