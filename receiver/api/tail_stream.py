"""GET /api/v1/tail as server-sent events, from one reader of the ledger for all streams of a process.

`event` has an event as in the list; its id is where to resume, as the header Last-Event-ID of the next request. `gap`
says what may be missing because retention has removed it. Every 15 s without either there is a comment, also with an
id. A client that takes nothing is disconnected by the server's limits, and misses nothing.

The ledger is read about once a second while there is a stream. Streams with equal parameters share the bytes of each
event. A stream whose client reads too slowly reads what it missed from the ledger, as one does that comes back.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from receiver.api.service import Actor, Service
from receiver.api.tail import PAGE, TAIL, TailParameters, check, decode, encode, gap_before, shown, start
from receiver.domain.redaction import Redactor
from receiver.ledger import Connection, api_keys, tail
from receiver.ledger.api_keys import Key
from receiver.ledger.async_ledger import AsyncLedger, limit_waits
from receiver.ledger.tail import Position, Tail
from receiver.runtime.background import Background
from receiver.submit.streams import Streams
from receiver.web import sse

# Seconds after which a client is to come back. Not all of them in the same moment.
RETRY: Final = (1.0, 3.0)
KEEP_ALIVE: Final = sse.KEEP_ALIVE
# Seconds between two reads; after a full page; and while an event may still come before others.
INTERVAL: Final = 1.0
SOON: Final = 0.1
# Seconds between two looks at whether the keys of streams are still valid.
KEYS_EVERY: Final = 2.0
# Bytes that wait for one client.
QUEUE_BYTES: Final = 1 << 20


class Piece(NamedTuple):
    """Bytes of a stream, and the position after them."""

    data: bytes
    position: Position


class Follower:
    """One stream. `kind`: what it asks for, wherever it begins. `key_hash`: of its key. `position`: after the last
    event that was taken from it. `lost`: whether its queue was dropped."""

    def __init__(self, kind: TailParameters, key_hash: str) -> None:
        self.kind = kind
        self.key_hash = key_hash
        self.position = Position(0, 0.0)
        self.lost = self.ended = False
        self._pieces: deque[Piece] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def put(self, piece: Piece) -> None:
        """Add what comes next, unless there is no room for it."""
        if self._bytes + len(piece.data) > QUEUE_BYTES and self._pieces:
            self.clear()
            self.lost = True
        elif not self.lost:
            self._pieces.append(piece)
            self._bytes += len(piece.data)
        self._news.set()

    def clear(self) -> None:
        """Drop what is queued: it was read from the ledger, or will be."""
        self._pieces.clear()
        self._bytes, self.lost = 0, False

    def end(self) -> None:
        """End the stream: its key was revoked, or the process stops."""
        self.ended = True
        self._news.set()

    async def next(self, seconds: float) -> Piece | None:
        """Return what comes next; None after `seconds`, or when the stream is `lost` or `ended`."""
        if not self._pieces and not self.lost and not self.ended:
            self._news.clear()
            with suppress(TimeoutError):  # something may have come in that very moment
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        if self.ended or self.lost or not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._bytes -= len(piece.data)
        return piece


class TailStreams:
    """The streams of one process."""

    def __init__(self, service: Service, ledger: AsyncLedger, background: Background) -> None:
        self._service = service
        self._ledger = ledger
        self._streams = Streams(background, "api.tail", self._look)
        self._kept = service.config.retention.events
        self._redactor = Redactor(service.config.redact)
        self._followers: set[Follower] = set()
        self._tail: Tail | None = None
        self._begun = asyncio.Event()
        self._keys_at = 0.0

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
        opening = sse.retry(random.uniform(*RETRY))
        if given is not None and (gap := gap_before(given, self._kept, now)) is not None:
            opening += sse.event("gap", "", gap.model_dump_json().encode())
        kind = parameters.from_anywhere()
        return self._streams.respond(key.id, opening, lambda: self._stream(Follower(kind, key.hash), begin))

    def stop(self) -> None:
        """End all streams: their clients come back to the next process."""
        self._streams.stopped = True
        self._begun.set()
        for follower in self._followers:
            follower.end()

    async def _stream(self, follower: Follower, begin: Position | None) -> AsyncGenerator[bytes, None]:
        if not self._followers:
            self._tail = None
            self._begun.clear()
        self._followers.add(follower)
        self._streams.keep_looking()
        try:
            await self._begun.wait()
            follower.position = begin or self._position
            if begin is None:
                follower.clear()
                yield sse.still_here(encode(follower.position))
            else:
                follower.lost = True  # what came before is read first
            async for data in self._events(follower):
                yield data
        finally:
            self._followers.discard(follower)

    async def _events(self, follower: Follower) -> AsyncGenerator[bytes, None]:
        while not follower.ended:
            if follower.lost:
                async for data in self._missed(follower):
                    yield data
            elif (piece := await follower.next(KEEP_ALIVE)) is not None:
                follower.position = piece.position
                yield piece.data
            elif not follower.lost and not follower.ended:
                follower.position = max(follower.position, self._position)
                yield sse.still_here(encode(follower.position))

    async def _missed(self, follower: Follower) -> AsyncGenerator[bytes, None]:
        """Yield what is in the ledger after the follower's position, up to where all streams are."""
        place = Tail(follower.position)
        while not follower.ended:
            limit_waits()
            until = self._position
            place, data, done = await self._ledger.read(functools.partial(self._page, follower.kind, place, until))
            follower.position = place.position
            yield data or sse.still_here(encode(place.position))
            if done and until == self._position:
                follower.clear()
                return
            if place.gap:
                await asyncio.sleep(SOON)

    def _page(
        self, kind: TailParameters, place: Tail, until: Position, connection: Connection
    ) -> tuple[Tail, bytes, bool]:
        """Return the place after a page of events up to `until`, their bytes, and whether it is the last page."""
        place, rows = tail.follow(
            connection, place, time.monotonic(), PAGE, bodies=self._bodies([kind]), until=until.seq
        )
        done = not place.gap and len(rows) < PAGE
        return Tail(max(until, place.position)) if done else place, rendered(rows, kind), done

    @property
    def _position(self) -> Position:
        """How far the reader of all streams has come."""
        return self._tail.position if self._tail else Position(0, 0.0)

    def _bodies(self, kinds: Iterable[TailParameters]) -> Redactor | None:
        """Return what masks the bodies in which a text is looked for; None when none is."""
        return self._redactor if any(kind.text for kind in kinds) else None

    async def _look(self) -> float:
        """Read once, and pass on what is new. Returns seconds until the next read. Raises LedgerUnavailable."""
        if self._tail is None:
            self._tail = Tail(await self._ledger.read(functools.partial(tail.newest, now=self._ledger.now())))
            self._begun.set()
        now = time.monotonic()
        kinds = frozenset(each.kind for each in self._followers)
        checks_keys = now - self._keys_at >= KEYS_EVERY
        work = _reading(self._tail, kinds, now, checks_keys, self._bodies(kinds))
        after, pieces, count, valid = await self._ledger.read(work)
        self._tail = after
        if checks_keys:
            self._keys_at = now
        for follower in tuple(self._followers):
            if valid is not None and follower.key_hash not in valid:
                follower.end()
            elif (data := pieces.get(follower.kind)) is not None:
                follower.put(Piece(data, after.position))
        return SOON if count >= PAGE or after.gap else INTERVAL


def _reading(
    before: Tail, kinds: Iterable[TailParameters], now: float, checks_keys: bool, bodies: Redactor | None
) -> Callable[[Connection], tuple[Tail, dict[TailParameters, bytes], int, frozenset[str] | None]]:
    """Return the work of one read, which a thread does: to find the rows, and to make each kind's bytes of them."""

    def read(connection: Connection) -> tuple[Tail, dict[TailParameters, bytes], int, frozenset[str] | None]:
        after, rows = tail.follow(connection, before, now, PAGE, bodies=bodies)
        made: dict[int, bytes] = {}
        pieces = {kind: data for kind in kinds if (data := rendered(rows, kind, made))}
        return after, pieces, len(rows), api_keys.hashes(connection) if checks_keys else None

    return read


def rendered(rows: Sequence[dict[str, Any]], kind: TailParameters, made: dict[int, bytes] | None = None) -> bytes:
    """Return the rows that are wanted as events of a stream. `made`: the bytes of rows that others have wanted, which
    are added to."""
    wanted, made = kind.filter(), {} if made is None else made
    chosen = [row for row in rows if tail.matches(row, wanted)]
    for row in chosen:
        if row["seq"] not in made:
            place = encode(Position(row["seq"], row["recorded_at"]))
            made[row["seq"]] = sse.event("event", place, shown(row).model_dump_json().encode())
    return b"".join(made[row["seq"]] for row in chosen)
