"""Events that wait for their commit, and which of them go together. Knows no store.

Two commits may be under way: while one is written, the next is on its way already, so that the disk never waits for us.
But the more events share one write, the fewer writes there are: a second commit begins when as many events wait as are
under way, so both are about as large as one would be.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from receiver.domain.event import Event
from receiver.errors import Busy

# Most events and bytes of one commit (one event may be larger): more than that gains nothing and takes longer.
COMMIT_EVENTS: Final = 512
COMMIT_BYTES: Final = 4 << 20

log = logging.getLogger("runhook.ingest")

# Called with None once an event is on disk, or with why it could not be kept.
OnCommit = Callable[[Busy | None], None]


class CommitBatch(NamedTuple):
    """Events of one commit, in the order of their coming. `size`: bytes of their bodies."""

    events: list[Event]
    size: int
    on_commit: list[OnCommit]

    def complete(self, busy: Busy | None) -> None:
        """Call all of `on_commit`: all is on disk, or nothing is, for `busy`."""
        for call in self.on_commit:
            try:
                call(busy)
            except Exception:  # the others must be called
                log.exception("ingest.bug")


def _complete_future(future: asyncio.Future[None], busy: Busy | None) -> None:
    if future.done():  # its request was cancelled
        return
    if busy is None:
        future.set_result(None)
    else:
        future.set_exception(busy)


class WaitingEvents:
    """The queue of one event loop."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Event, OnCommit]] = deque()
        self._arrived = asyncio.Event()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._woken = False  # a taker is on its way
        self._under_way = 0
        self._closed = False

    def add(self, event: Event) -> asyncio.Future[None]:
        """Add an event. The future is completed with its batch."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.put(event, partial(_complete_future, future))
        return future

    def put(self, event: Event, on_commit: OnCommit) -> None:
        """Add an event. `on_commit` is called when its batch is done: a future would have the event loop do that later,
        one by one."""
        self._queue.append((event, on_commit))
        self._arrived.set()
        self._wake_one()

    async def arrival(self) -> None:
        """Wait until an event comes, unless one waits."""
        if not self._queue:
            self._arrived.clear()
            await self._arrived.wait()

    async def take(self) -> CommitBatch | None:
        """Wait for the next batch, which is under way until `done`. None: the queue is closed, and empty."""
        while not self._is_due():
            if self._closed and not self._queue:
                return None
            turn = asyncio.get_running_loop().create_future()
            self._takers.append(turn)
            try:
                await turn
                await asyncio.sleep(0)  # those that arrived at the same moment come along
            except BaseException:  # cancelled: its turn is another's
                self._woken = False
                self._wake_one()
                raise
            self._woken = False
        events: list[Event] = []
        on_commit, size = [], 0
        while self._queue and len(events) < COMMIT_EVENTS:
            event, call = self._queue[0]
            if events and size + len(event.body) > COMMIT_BYTES:
                break
            self._queue.popleft()
            events.append(event)
            on_commit.append(call)
            size += len(event.body)
        self._under_way += len(events)
        self._wake_one()  # for those that there was no room for
        return CommitBatch(events, size, on_commit)

    def _is_due(self) -> bool:
        return len(self._queue) >= max(1, self._under_way)

    def _wake_one(self) -> None:
        """Wake one who takes, if a batch is due and none is on its way: of two, one would wake in vain."""
        if not self._woken and self._is_due():
            self._woken = self._wake_next()

    def _wake_next(self) -> bool:
        while self._takers:
            turn = self._takers.popleft()
            if not turn.done():  # it may be cancelled
                turn.set_result(None)
                return True
        return False

    def _wake_all(self) -> None:
        while self._wake_next():
            pass

    def done(self, batch: CommitBatch, busy: Busy | None = None) -> None:
        """End a batch that was under way, and tell those who wait for its events."""
        self._under_way -= len(batch.events)
        if self._closed:
            self._wake_all()
        batch.complete(busy)

    def close(self) -> None:
        """Let `take` end once everything is taken."""
        self._closed = True
        self._wake_all()
