"""One reader of the ledger for all who follow its events in this process.

It reads about once a second while anybody follows, and not at all otherwise. Those who ask alike share each piece of a
stream, as bytes. Nobody waits for a follower that does not read: what is too much for its queue is dropped, and read
from the ledger once it reads again.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from receiver.api.tail import PAGE, TailParameters, encode, shown
from receiver.domain.redaction import Redactor
from receiver.ledger import Connection, LedgerUnavailable, api_keys, tail
from receiver.ledger.async_ledger import AsyncLedger, limit_waits
from receiver.ledger.tail import Position, Tail
from receiver.runtime.background import Background
from receiver.web import sse

# Seconds between two reads; after one that found all it may; and while an event may still come before others.
INTERVAL: Final = 1.0
SOON: Final = 0.1
# Seconds between two looks at whether the keys of followers are still valid.
KEYS_EVERY: Final = 2.0
# Bytes that wait for one follower.
QUEUE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a stream, and the position after them."""

    data: bytes
    position: Position


class Follower:
    """One stream. `kind`: what it asks for, wherever it begins. `key_hash`: of its key; "" for none. `position`: after
    the last event that was taken from it. `lost`: whether its queue was dropped."""

    def __init__(self, kind: TailParameters, key_hash: str, position: Position) -> None:
        self.kind = kind
        self.key_hash = key_hash
        self.position = position
        self.lost = False
        self.ended = False
        self._pieces: deque[Piece] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def put(self, piece: Piece) -> None:
        """Add what comes next, unless there is no room for it."""
        if self.lost:
            return
        if self._bytes + len(piece.data) > QUEUE_BYTES and self._pieces:
            self._pieces.clear()
            self._bytes, self.lost = 0, True
        else:
            self._pieces.append(piece)
            self._bytes += len(piece.data)
        self._news.set()

    def end(self) -> None:
        """End the stream: its key was revoked, or the process stops."""
        self.ended = True
        self._news.set()

    def begin_anew(self) -> None:
        """Take what comes from now on: what was lost will be read from the ledger."""
        self._pieces.clear()
        self._bytes, self.lost = 0, False

    async def next(self, seconds: float) -> Piece | None:
        """Return what comes next; None after `seconds`, or when `lost` or `ended` says why there is nothing."""
        if not self._pieces and not self.lost and not self.ended:
            self._news.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                pass  # something may have come in that very moment
        if self.ended or self.lost or not self._pieces:
            return None
        piece = self._pieces.popleft()
        self._bytes -= len(piece.data)
        return piece


class Feed:
    """The followers of one process. `redactor`: masks what a text is not looked for in."""

    def __init__(self, ledger: AsyncLedger, background: Background, redactor: Redactor) -> None:
        self._ledger = ledger
        self._redactor = redactor
        self._background = background
        self._followers: set[Follower] = set()
        self._task: asyncio.Task[None] | None = None
        self._tail: Tail | None = None
        self._begun = asyncio.Event()
        self._keys_at = 0.0
        self.stopped = False

    def __len__(self) -> int:
        return len(self._followers)

    @property
    def position(self) -> Position:
        """How far all events were told."""
        return self._tail.position if self._tail else Position(0, 0.0)

    async def join(self, follower: Follower) -> Tail:
        """Let `follower` have what comes from now on. Returns how far what came before was read."""
        self._followers.add(follower)
        if self._task is None or self._task.done():
            self._tail = None
            self._begun.clear()
            self._task = self._background.keep("api.tail", self._run)
        while (state := self._tail) is None and not self.stopped:
            await self._begun.wait()
        if state is None:
            raise LedgerUnavailable("the receiver is being stopped")
        return state

    def leave(self, follower: Follower) -> None:
        """Let `follower` have no more."""
        self._followers.discard(follower)

    async def _run(self) -> None:
        """Read until nobody follows."""
        while self._followers:
            pause = INTERVAL
            try:
                limit_waits()  # and not what is left to the request that began this
                if self._tail is None:
                    self._tail = await self._ledger.read(functools.partial(tail.begin, now=self._ledger.now()))
                    self._begun.set()
                pause = await self._read(self._tail)
            except LedgerUnavailable:
                pass
            await asyncio.sleep(pause)

    async def _read(self, before: Tail) -> float:
        """Read once, and tell the followers. Returns seconds until the next read. Raises LedgerUnavailable."""
        now = time.monotonic()
        kinds = frozenset(each.kind for each in self._followers)
        checks_keys = now - self._keys_at >= KEYS_EVERY
        bodies = self._redactor if any(kind.text for kind in kinds) else None
        work = _reading(before, kinds, now, checks_keys, bodies)
        after, pieces, count, valid = await self._ledger.read(work)
        self._tail = after
        if checks_keys:
            self._keys_at = now
        for follower in tuple(self._followers):
            if valid is not None and follower.key_hash and follower.key_hash not in valid:
                follower.end()
            elif (data := pieces.get(follower.kind)) is not None:
                follower.put(Piece(data, after.position))
        return SOON if count >= PAGE or after.order.has_gap else INTERVAL

    def stop(self) -> None:
        """End all streams: their clients come back to the next process."""
        self.stopped = True
        self._begun.set()
        for follower in self._followers:
            follower.end()

    async def page(self, follower: Follower, until: Position) -> tuple[Piece, bool]:
        """Return what is in the ledger after the follower's position, up to `until`: a page of it, and whether there is
        more. Raises LedgerUnavailable."""
        begin, kind = follower.position, follower.kind
        bodies = self._redactor if kind.text else None

        def read(connection: Connection) -> tuple[Piece, bool]:
            rows = tail.page(connection, begin.seq, until.seq, PAGE, bodies=bodies)
            more = len(rows) == PAGE
            position = Position(rows[-1]["seq"], rows[-1]["recorded_at"]) if more else max(until, begin)
            return Piece(rendered(rows, kind, len(rows)), position), more

        return await self._ledger.read(read)

    async def beside(self, follower: Follower, seqs: Iterable[int]) -> bytes:
        """Return the events that others were told already, though one before them may still come. Raises
        LedgerUnavailable."""
        wanted = sorted(seq for seq in seqs if seq > follower.position.seq)
        bodies = self._redactor if follower.kind.text else None
        return await self._ledger.read(
            lambda connection: rendered(tail.load(connection, wanted, bodies=bodies), follower.kind, 0)
        )


def _reading(
    before: Tail, kinds: Iterable[TailParameters], now: float, checks_keys: bool, bodies: Redactor | None
) -> Callable[[Connection], tuple[Tail, dict[TailParameters, bytes], int, frozenset[str] | None]]:
    """Return the work of one read, which a thread does: to find the rows, and to make each kind's bytes of them."""

    def read(connection: Connection) -> tuple[Tail, dict[TailParameters, bytes], int, frozenset[str] | None]:
        after, new = tail.follow(connection, before, now, PAGE, bodies=bodies)
        made: dict[int, bytes] = {}
        pieces = {kind: data for kind in kinds if (data := rendered(new.rows, kind, new.settled, made))}
        valid = api_keys.hashes(connection) if checks_keys else None
        return after, pieces, len(new.rows), valid

    return read


def rendered(
    rows: Sequence[dict[str, Any]], kind: TailParameters, settled: int, made: dict[int, bytes] | None = None
) -> bytes:
    """Return the rows that are wanted as events of a stream. Only the first `settled` rows are positions to go on
    from: a client that comes back after one of the others is told these once more, and misses nothing.

    `made`: the bytes of rows that others have wanted, which are added to.
    """
    wanted, made = kind.filter(), {} if made is None else made
    chosen = [(number, row) for number, row in enumerate(rows) if tail.matches(row, wanted)]
    for number, row in chosen:
        if row["seq"] not in made:
            place = encode(Position(row["seq"], row["recorded_at"])) if number < settled else ""
            made[row["seq"]] = sse.event("event", place, shown(row).model_dump_json().encode())
    return b"".join(made[row["seq"]] for _, row in chosen)
