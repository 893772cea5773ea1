"""GET /api/v1/tail as server-sent events.

`event` has an event as in the list; its id is where to go on, as the header Last-Event-ID of the next request. `gap`
says what may be missing since retention has removed it. Every 15 s without either there is a comment, also with the id
that is right by then. A client that takes nothing is broken off by the server's limits, and misses nothing.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from receiver.api.service import Actor, Service
from receiver.api.tail import TAIL, TailParameters, check, decode, encode, gap_before, start
from receiver.api.tail_feed import Feed, Follower
from receiver.domain.redaction import Redactor
from receiver.errors import Busy
from receiver.ledger import Connection, LedgerUnavailable
from receiver.ledger.api_keys import Key
from receiver.ledger.async_ledger import AsyncLedger, limit_waits
from receiver.ledger.tail import Position
from receiver.runtime.background import Background
from receiver.submit.connection import StreamedResponse
from receiver.submit.long_poll import TooManyWaiters, WaiterLimit
from receiver.web import sse

# Streams of one process, and the part of them that one key may have of what others leave.
MAX_STREAMS: Final = 1000
KEY_SHARE: Final = 0.5
# Seconds after which a client is to come back. Not all of them in the same moment.
RETRY: Final = (1.0, 3.0)
KEEP_ALIVE: Final = sse.KEEP_ALIVE


class TailStreams:
    """The streams of one process."""

    def __init__(self, service: Service, ledger: AsyncLedger, background: Background) -> None:
        self._service = service
        self._ledger = ledger
        self._kept = service.config.retention.events
        self._feed = Feed(ledger, background, Redactor(service.config.redact))
        self._places = WaiterLimit(MAX_STREAMS, KEY_SHARE)
        self.stop = self._feed.stop

    @staticmethod
    def wanted(request: Request) -> bool:
        """Return whether the request asks for a stream: it does unless it accepts JSON, and no events."""
        accepted = request.headers.get("accept", "")
        return "text/event-stream" in accepted or "application/json" not in accepted

    async def open(self, request: Request, key: Key) -> Response:
        """Return the stream. A client that comes back says in a header where it was. Raises RequestError and
        LedgerUnavailable."""
        query = request.query_params.multi_items()
        if last := request.headers.get("last-event-id", ""):
            query = [*(each for each in query if each[0] != "after"), ("after", last)]
        actor = Actor.of_key(key)
        actor.require(TAIL.scope)  # before all that a caller who may not call it could find out, or make us do
        parameters = TAIL.allowed(actor, TAIL.parse({}, query))
        now = self._ledger.now()
        given = decode(parameters.after)

        def read(connection: Connection) -> Position:
            check(self._service, actor, connection, parameters)
            return start(connection, parameters, now)

        found = await self._ledger.read(read)
        begin = found if given is not None or parameters.since is not None else None
        try:
            with self._places.place(key.id):
                pass  # the place is held from the first event on: a stream that nobody reads is never begun
        except TooManyWaiters:
            raise Busy("too many streams are open", retry_after=5) from None
        opening = sse.retry(random.uniform(*RETRY))
        if given is not None and (gap := gap_before(given, self._kept, now)) is not None:
            opening += sse.event("gap", "", gap.model_dump_json().encode())
        return StreamedResponse(self._held(key, parameters.from_anywhere(), begin, opening), 200, sse.HEADERS)

    async def _held(
        self, key: Key, kind: TailParameters, begin: Position | None, opening: bytes
    ) -> AsyncGenerator[bytes, None]:
        follower = Follower(kind, key.hash, begin or Position(0, 0.0))
        try:
            with self._places.place(key.id):
                yield opening
                async for data in self._events(follower, begin is None):
                    yield data
        except (TooManyWaiters, LedgerUnavailable):
            return  # the client comes back, and is told more
        finally:
            self._feed.leave(follower)

    async def _events(self, follower: Follower, from_now: bool) -> AsyncGenerator[bytes, None]:
        while not follower.ended:
            follower.begin_anew()
            state = await self._feed.join(follower)
            if from_now:
                from_now = False
                follower.position = state.position
                yield sse.still_here(encode(state.position))
            else:
                beside = state.order.beyond
                more = True
                while more and not follower.ended:
                    limit_waits()
                    piece, more = await self._feed.page(follower, state.position)
                    follower.position = piece.position
                    yield piece.data or sse.still_here(encode(piece.position))
                if beside and not follower.ended and (data := await self._feed.beside(follower, beside)):
                    yield data
            while not follower.lost and not follower.ended:
                next_one = await follower.next(KEEP_ALIVE)
                if next_one is not None:
                    follower.position = next_one.position
                    yield next_one.data
                elif not follower.lost and not follower.ended:
                    follower.position = max(follower.position, self._feed.position)
                    yield sse.still_here(encode(follower.position))
