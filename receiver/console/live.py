"""Parts of pages that follow what happens while somebody looks, as server-sent events.

What many look at is rendered once for all of them, whoever they are, as long as they may see the same. However many
look, and at whatever: the rendering of all views together takes a small part of the time, and one view is rendered at
most every OFTEN seconds. A view is due when something has happened in the ledger, and every SELDOM seconds, for some of
what pages show is elsewhere, or only gets older.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from starlette.responses import Response

from receiver.api.service import Actor
from receiver.console.page import ConsolePage, Query
from receiver.console.sign_in import SignedIn
from receiver.errors import RequestError
from receiver.ledger import Connection, LedgerDataError, LedgerUnavailable, console_sessions, stats
from receiver.ledger.async_ledger import AsyncLedger
from receiver.runtime.background import Background
from receiver.submit.streams import Streams
from receiver.web import sse

# Seconds between two renderings of one view, at the least and at the most.
OFTEN: Final = 2.0
SELDOM: Final = 10.0
# Seconds between two looks at the ledger while somebody looks at a page, and at whether their sessions go on.
LOOK: Final = 1.0
SESSIONS_EVERY: Final = 2.0
# After each rendering there is none for so many times the CPU time that it took, with what sending it to each viewer
# takes; and for as long as it took by the clock, for the database may be what works.
REST: Final = 60.0
# But for no more seconds than these by the first rule: what costs much may have been imported just now.
LONGEST_REST: Final = 30.0
_A_SEND: Final = 0.0001
_RETRY: Final = 2.0
_NEVER: Final = float("-inf")


@dataclass(frozen=True, slots=True)
class Shown:
    """What is looked at, and what of it may be seen. Whoever looks at the same shares it.

    `url`: its path and query. `names`: of its path, with their values.
    """

    page: ConsolePage
    url: str
    names: tuple[tuple[str, str], ...]
    query: tuple[tuple[str, str], ...]
    scopes: frozenset[str]
    source: str

    @classmethod
    def by(cls, actor: Actor, page: ConsolePage, url: str, names: Query, query: Query) -> Shown:
        """Return what `actor` looks at."""
        return cls(page, url, tuple(names), tuple(query), actor.scopes, actor.source)

    @property
    def actor(self) -> Actor:
        """Anybody who may see it."""
        return Actor("user", "", self.scopes, self.source)


@dataclass(eq=False, slots=True)
class _Viewer:
    session: str
    ended: bool = False


@dataclass(eq=False, slots=True)
class _View:
    """`began`: when it was rendered last. `changed`: set, and made anew, when there is another text or an end."""

    shown: Shown
    text: bytes = b""
    began: float = _NEVER
    viewers: set[_Viewer] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Rendered(NamedTuple):
    """The part of a page. `cost`: seconds of CPU time."""

    html: str
    cost: float


class LiveParts:
    """The streams of one process. `render`: makes the part of a page, in a thread; raises RequestError."""

    def __init__(
        self, ledger: AsyncLedger, background: Background, render: Callable[[Shown], Awaitable[Rendered]]
    ) -> None:
        self._ledger = ledger
        self._background = background
        self._render = render
        self._views: dict[Shown, _View] = {}
        self._streams = Streams(background, "console.look", self._look)
        self._checked = _NEVER
        self._happened = _NEVER
        self._mark: stats.Mark | None = None
        self._due = asyncio.Event()

    def open(self, shown: Shown, signed_in: SignedIn) -> Response:
        """Return the stream of a page for somebody. Raises Busy."""
        stream = partial(self._stream, shown, signed_in.digest)
        return self._streams.respond(signed_in.person.name, sse.retry(_RETRY), stream)

    async def _stream(self, shown: Shown, session: str) -> AsyncGenerator[bytes, None]:
        viewer, view = _Viewer(session), self._views.setdefault(shown, _View(shown))
        view.viewers.add(viewer)
        self._due.set()
        self._streams.keep_looking()
        self._background.keep("console.live", self._render_all)
        try:
            async for event in self._events(view, viewer):
                yield event
        finally:
            view.viewers.discard(viewer)
            if not view.viewers:
                self._views.pop(shown, None)
                self._due.set()

    async def _events(self, view: _View, viewer: _Viewer) -> AsyncGenerator[bytes, None]:
        told = b""
        while not viewer.ended and not self._streams.stopped:
            changed = view.changed
            if view.text != told:
                told = view.text
                yield told
                continue
            try:
                async with asyncio.timeout(sse.KEEP_ALIVE):
                    await changed.wait()
            except TimeoutError:
                yield sse.still_here()

    async def _look(self) -> float:
        """See what happens in the ledger, and whose session has ended. Returns seconds until the next look."""
        checks = time.monotonic() - self._checked >= SESSIONS_EVERY
        sessions = {viewer.session for view in self._views.values() for viewer in view.viewers}
        mark, alive = await self._ledger.read(_looking(sessions if checks else set(), self._ledger.now()))
        if mark != self._mark:
            self._mark, self._happened = mark, time.monotonic()
            self._due.set()
        if checks:
            self._checked = time.monotonic()
            self._end(sessions - alive)
        return LOOK

    def _end(self, sessions: AbstractSet[str]) -> None:
        for view in self._views.values() if sessions else ():
            for viewer in view.viewers:
                viewer.ended = viewer.ended or viewer.session in sessions
            view.tell()

    async def _render_all(self) -> None:
        """Render what is due, one after the other, until nobody looks at a page."""
        while self._views and not self._streams.stopped:
            view = min(self._views.values(), key=self._due_at)
            pause = self._due_at(view) - time.monotonic()
            if pause <= 0:
                pause = await self._render_one(view)
                await asyncio.sleep(pause)
                continue
            self._due.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._due.wait()

    def _due_at(self, view: _View) -> float:
        return view.began + (OFTEN if self._happened >= view.began else SELDOM)

    async def _render_one(self, view: _View) -> float:
        """Render a view, and tell who looks at it. Returns for how many seconds to rest then."""
        began = view.began = time.monotonic()
        text, cost = view.text, 0.0
        with suppress(RequestError, LedgerUnavailable, LedgerDataError):  # it stays as it is, and is tried again
            made = await self._render(view.shown)
            text, cost = sse.event("part", "", made.html.encode()), made.cost
        if text != view.text:
            view.text = text
            view.tell()
            cost += _A_SEND * len(view.viewers)
        return max(min(cost * REST, LONGEST_REST), time.monotonic() - began)

    def stop(self) -> None:
        """End all streams: their browsers come back to the next process."""
        self._streams.stopped = True
        self._due.set()
        for view in self._views.values():
            view.tell()


def _looking(sessions: AbstractSet[str], now: float) -> Callable[[Connection], tuple[stats.Mark, frozenset[str]]]:
    """Return the work of one look: what is new, and which of the sessions go on."""
    return lambda connection: (stats.mark(connection), console_sessions.alive(connection, sessions, now))
