"""GET /api/v1/tail as server-sent events: each stream reads the ledger about once a second.

`event` has an event as in the list; its id is where to resume, as the header Last-Event-ID of the next request. `gap`
says what may be missing because retention has removed it. Every 15 s without either there is a comment, also with an
id. A client that reads too slowly is disconnected by the server's limits, and resumes where it was.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from receiver.api.service import Actor, Service
from receiver.api.tail import TAIL, TailEvent, TailParameters, encode, follow, start
from receiver.errors import Busy
from receiver.ledger import Connection, LedgerUnavailable
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key
from receiver.ledger.database.async_ledger import AsyncLedger, limit_waits
from receiver.ledger.lists.tail import Position, Tail
from receiver.web.limits import TooManyWaiters, WaiterLimit
from receiver.web.responses import SSE_HEADERS, SSE_KEEP_ALIVE, StreamedResponse, sse_event, sse_keep_alive, sse_retry

# Streams of one process, and the share of the free ones that one key may take.
MAX_STREAMS: Final = 100
SHARE: Final = 0.5
# Seconds after which a client is to reconnect: spread, so that not all do so at the same moment.
RETRY: Final = (1.0, 3.0)
# Seconds between two reads, and while an event may still come before others.
INTERVAL: Final = 1.0
SOON: Final = 0.1


class TailStreams:
    """The streams of one process. `interval`, `keep_alive`: seconds, see INTERVAL and the module."""

    def __init__(
        self, service: Service, ledger: AsyncLedger, interval: float = INTERVAL, keep_alive: float = SSE_KEEP_ALIVE
    ) -> None:
        self._interval = interval
        self._keep_alive = keep_alive
        self._service = service
        self._ledger = ledger
        self._places = WaiterLimit(MAX_STREAMS, SHARE)
        self._stopped = asyncio.Event()

    @staticmethod
    def accepts_stream(request: Request) -> bool:
        """Return whether the request asks for a stream: it does unless it accepts JSON, and no events."""
        accepted = request.headers.get("accept", "")
        return "text/event-stream" in accepted or "application/json" not in accepted

    async def open(self, request: Request, key: Key) -> Response:
        """Return the stream, from Last-Event-ID on if the request has it. Raises RequestError, LedgerUnavailable."""
        query = request.query_params.multi_items()
        if last := request.headers.get("last-event-id", ""):
            query = [*(each for each in query if each[0] != "after"), ("after", last)]
        actor = Actor.of_key(key)
        actor.require(TAIL.scope)  # before anything else: other errors would reveal what exists
        parameters = TAIL.allowed(actor, TAIL.parse({}, query))
        place, gap = await self._ledger.read(functools.partial(start, self._service, actor, parameters))
        opening = sse_retry(random.uniform(*RETRY))
        if gap is not None:
            opening += sse_event("gap", "", gap.model_dump_json().encode())
        opening += sse_keep_alive(encode(place.position))
        try:
            with self._places.place(key.id):
                pass  # the stream takes it when it is read: it may never be
        except TooManyWaiters:
            raise Busy("too many streams are open", retry_after=5) from None
        return StreamedResponse(self._stream(key, parameters, place, opening), 200, SSE_HEADERS)

    def stop(self) -> None:
        """End all streams: their clients reconnect to the next process."""
        self._stopped.set()

    async def _stream(
        self, key: Key, parameters: TailParameters, place: Tail, opening: bytes
    ) -> AsyncGenerator[bytes, None]:
        with suppress(TooManyWaiters), self._places.place(key.id):
            yield opening
            sent = time.monotonic()
            while not self._stopped.is_set():
                limit_waits()
                data, more = b"", False
                with suppress(LedgerUnavailable):  # the stream continues with the ledger
                    read = functools.partial(self._read, key, parameters, place)
                    if (found := await self._ledger.read(read)) is None:
                        return
                    place, data, more = found
                if data or time.monotonic() - sent >= self._keep_alive:
                    yield data or sse_keep_alive(encode(place.position))
                    sent = time.monotonic()
                if place.gap or not more:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(SOON if place.gap else self._interval):
                            await self._stopped.wait()

    def _read(
        self, key: Key, parameters: TailParameters, place: Tail, connection: Connection
    ) -> tuple[Tail, bytes, bool] | None:
        """Return the next place, the bytes of the events up to it, and whether there may be more; None without a valid
        key."""
        current = api_keys.get(connection, key.id)
        if current is None or not current.in_use:
            return None
        place, found, more = follow(self._service, parameters, place, connection)
        return place, b"".join(map(_rendered, found)), more


def _rendered(event: TailEvent) -> bytes:
    return sse_event("event", encode(Position(event.seq, event.recorded_at)), event.model_dump_json().encode())
