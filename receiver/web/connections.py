"""Which connections stay: limits on requests that have not come in whole, in time and in number.

A request that makes no progress ends. Where there are too many that are not whole, in all or from one address, the
oldest of those that have sent no whole head yet ends first, then the slowest body: who comes now may hold a webhook
with a right signature. Knows no HTTP and reads no clock; http_protocol.py does both.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

# Seconds without a byte, after which what is not whole ends; so long may a new connection be silent, too.
STALL: Final = 5.0
# Seconds that a head may take in all.
HEAD_SECONDS: Final = 10.0
# Seconds of a body that are free; from then on LEAST_RATE bytes a second must have come, over its whole time.
BODY_SECONDS: Final = 10.0
LEAST_RATE: Final = 64 << 10
# Seconds for which the rest of a body that is refused already is still read, while it comes fast enough: many a sender
# looks for an answer only when it has sent everything, and finds none on a connection that was closed before.
LINGER: Final = 30.0
# Bytes of it that are read at the most, about; and where what comes is a head that never ends, or no HTTP at all.
LINGER_BYTES: Final = 256 << 20
LINGER_HEAD_BYTES: Final = 4 << 20
# Seconds for which a client may take nothing of an answer.
UNREAD: Final = 30.0
# Seconds for which an idle connection stays open: longer than proxies keep theirs (nginx and AWS 60 s), for what one of
# them sends on a connection that is closed in that very moment is answered by it with 502. Idle ones give way first.
KEEP_ALIVE: Final = 75
# Seconds for which bodies are taken to be as slow, each against the others, as they were found to be: comparing them
# costs a look at all, and must not be had once for each newcomer.
_RANKED_FOR: Final = 0.5

_SLOW_HEAD: Final = "the head of the request did not come in time"
_SLOW_BODY: Final = "the body of the request came too slowly"


class Bounds(NamedTuple):
    """How many connections there may be, and how many requests that are not whole: in all, and from one address."""

    total: int
    unfinished: int
    by_address: int


def bounds_for(files: int) -> Bounds:
    """Return the bounds for a process that may open `files` files. A quarter of them, up to 1,024, is left for Redis,
    the ledger, the spool and Skyvern."""
    total = max(16, min(files - min(1024, files // 4), 16_384))
    unfinished = max(8, min(total // 2, 4096))
    return Bounds(total, unfinished, max(4, unfinished // 2))


def split(bounds: Bounds) -> tuple[Bounds, Bounds]:
    """Return the bounds of the public port and of an admin port beside it: what comes to one takes no place of the
    other. Behind the admin port all may well be one address, that of a proxy."""
    total, unfinished = min(1024, bounds.total // 4), min(256, bounds.unfinished // 4)
    public = Bounds(bounds.total - total, bounds.unfinished - unfinished, bounds.by_address - unfinished // 2)
    return public, Bounds(total, unfinished, unfinished)


class Peer(Protocol):
    """What is needed of a connection."""

    def reading(self) -> bool:
        """Whether we read what it sends: else its silence is ours."""

    def answering(self) -> bool:
        """Whether an answer to it is under way."""

    def answered(self) -> bool:
        """Whether the request that is coming in has been answered already."""

    def unsent(self) -> int:
        """How many bytes of answers it has not taken yet."""

    def refuse(self, status: str, code: str, message: str) -> None:
        """Answer so, unless an answer has begun, and close the connection."""

    def close(self) -> None:
        """Close the connection without an answer."""

    def abort(self) -> None:
        """Break the connection off, whatever is not sent yet."""


class Unfinished:
    """What has come of a connection's newest request. `began`, `progress_at`: by the clock of the caller."""

    __slots__ = (
        "address",
        "answered_at",
        "answered_with",
        "began",
        "in_body",
        "listed",
        "peer",
        "progress_at",
        "received",
    )

    def __init__(self, peer: Peer, address: str) -> None:
        self.peer = peer
        self.address = address
        self.listed = False  # whether it is not whole
        self.in_body = False
        self.began = self.progress_at = 0.0
        self.received = 0
        self.answered_at: float | None = None
        self.answered_with = 0  # bytes that had been received then

    def rate(self, now: float) -> float:
        """Return bytes a second so far."""
        return self.received / max(now - self.began, 0.001)


class _Group:
    """Those of one address, or all: the oldest first."""

    def __init__(self) -> None:
        self.heads: dict[Unfinished, None] = {}
        self.bodies: dict[Unfinished, None] = {}
        self._ranking: list[tuple[Unfinished, float]] = []  # bodies, and when each began: the slowest last
        self._ranked_at = 0.0

    def __len__(self) -> int:
        return len(self.heads) + len(self.bodies)

    def worst(self, now: float, but: Unfinished) -> Unfinished | None:
        """Return the one to end first, other than `but`."""
        for each in self.heads:
            if each is not but:
                return each
        if now - self._ranked_at > _RANKED_FOR:
            self._rank(now)
        return self._slowest(but) or self._rank(now)._slowest(but)

    def _rank(self, now: float) -> _Group:
        self._ranked_at = now
        slowest_last = sorted(self.bodies, key=lambda each: each.rate(now), reverse=True)
        self._ranking = [(each, each.began) for each in slowest_last]
        return self

    def _slowest(self, but: Unfinished) -> Unfinished | None:
        while self._ranking:
            each, began = self._ranking.pop()
            if each is not but and each.began == began and each in self.bodies:
                return each
        return None


class Connections:
    """All connections of a server. `count`: returns how many are open, set by who opens them."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._all = _Group()
        self._by_address: dict[str, _Group] = {}
        # Since when they take nothing, and the bytes that were unsent then: who has waited for longest is the first.
        self._unread: dict[Peer, tuple[float, int]] = {}
        # Those that wait for a next request, and since when: who has waited for longest is the first.
        self._idle: OrderedDict[Peer, float] = OrderedDict()
        # Requests that are answered for good, of which we only read what still comes: since when, and how many bytes.
        self._lingering: OrderedDict[Unfinished, tuple[float, int]] = OrderedDict()
        self._swept_at = 0.0
        self.count: Callable[[], int] = lambda: 0
        # How many were ended, by why.
        self.ended = {"slow": 0, "too_many": 0}

    def gauges(self) -> dict[str, int]:
        """Return how many connections are open, and how many of them have not sent a whole head, or a whole body."""
        return {"open": self.count(), "head": len(self._all.heads), "body": len(self._all.bodies)}

    def opened(self, request: Unfinished, now: float) -> bool:
        """List a new connection, and end others where there are too many. False: there is no room for it at all."""
        if self.count() > self._bounds.total and not self._end_one(request, now):
            self.ended["too_many"] += 1
            return False
        self.progressed(request, 0, False, now)
        return True

    def progressed(self, request: Unfinished, received: int, in_body: bool, now: float) -> None:
        """Note that `received` bytes of a request came, which is not whole. `in_body`: its head is."""
        request.progress_at = now
        if not request.listed or in_body != request.in_body:
            is_new = not request.listed
            self.finished(request)
            request.listed, request.in_body, request.began, request.received = True, in_body, now, 0
            request.answered_at = None
            for group in (self._all, self._by_address.setdefault(request.address, _Group())):
                (group.bodies if in_body else group.heads)[request] = None
            if is_new:
                self._make_room(request, now)
        request.received += received

    def finished(self, request: Unfinished) -> None:
        """Forget a request: it is whole, or its connection is closed."""
        if not request.listed:
            return
        request.listed = False
        mine = self._by_address[request.address]
        for group in (self._all, mine):
            group.heads.pop(request, None)
            group.bodies.pop(request, None)
        if not mine:
            del self._by_address[request.address]

    def unread(self, peer: Peer, now: float) -> None:
        """Note that a client is slow to take its answer: what may be sent ahead is sent, or the connection is to be
        closed once all is."""
        self._unread[peer] = (now, peer.unsent())

    def read(self, peer: Peer) -> None:
        """Note that it has taken some, or is gone."""
        self._unread.pop(peer, None)

    def idle(self, peer: Peer, now: float) -> None:
        """Note that a connection waits for a next request: it gives way first."""
        self._idle[peer] = now

    def busy(self, peer: Peer) -> None:
        """Note that it waits for none, or is closed."""
        self._idle.pop(peer, None)

    def lingers(self, request: Unfinished, received: int, is_body: bool, now: float) -> bool:
        """Note that `received` bytes came of a request that was answered for good, and is only read so that its sender
        gets to the answer. `is_body`: they are of a body. False: enough was read."""
        self.finished(request)
        since, before = self._lingering.get(request, (now, 0))
        self._lingering[request] = (since, before + received)
        request.progress_at = now
        return before + received <= (LINGER_BYTES if is_body else LINGER_HEAD_BYTES)

    def gone(self, request: Unfinished) -> None:
        """Forget a connection that is closed."""
        self.finished(request)
        self._unread.pop(request.peer, None)
        self._idle.pop(request.peer, None)
        self._lingering.pop(request, None)

    def __len__(self) -> int:
        return len(self._all)

    def sweep(self, now: float) -> None:
        """End what makes no progress. Call it at short intervals while there is anything unfinished."""
        passed, self._swept_at = max(0.0, now - (self._swept_at or now)), now
        for request in [*self._all.heads, *self._all.bodies]:
            peer = request.peer
            if request.in_body and peer.answered():
                if request.answered_at is None:
                    request.answered_at, request.answered_with = now, request.received
                elif (
                    now - request.answered_at > LINGER
                    or request.received - request.answered_with > LINGER_BYTES
                    or is_late(request, now)
                ):
                    self.finished(request)
                    peer.close()
            elif not peer.reading() or (not request.in_body and peer.answering()):
                request.began += passed
                request.progress_at += passed
            elif is_late(request, now):
                self._end(request, "408 Request Timeout", "timed_out", _SLOW_BODY if request.in_body else _SLOW_HEAD)
                self.ended["slow"] += 1
        self._close_waiting(now)
        for peer, (since, before) in list(self._unread.items()):
            if (left := peer.unsent()) < before:
                del self._unread[peer]
                self._unread[peer] = (now, left)
            elif now - since > UNREAD:
                self._abort(peer, "slow")

    def _close_waiting(self, now: float) -> None:
        """Close what has waited for its time: for the rest of an answered request, or for a next one."""
        for request, (since, _) in list(self._lingering.items()):
            if now - since > LINGER or now - request.progress_at > STALL:
                del self._lingering[request]
                request.peer.close()
        while self._idle and now - next(iter(self._idle.values())) > KEEP_ALIVE:
            self._idle.popitem(last=False)[0].close()

    def _abort(self, peer: Peer, reason: str) -> None:
        del self._unread[peer]
        self.ended[reason] += 1
        peer.abort()

    def _make_room(self, request: Unfinished, now: float) -> None:
        mine = self._by_address[request.address]
        group = mine if len(mine) > self._bounds.by_address else self._all
        if group is mine or len(self._all) > self._bounds.unfinished:
            self._end_worst(group, request, now)

    def _end_one(self, request: Unfinished, now: float) -> bool:
        """Close a connection that needs no more than closing: one whose answer was sent, or one that is idle. Where
        there is none, end the worst request that is not whole, or the answer that has been unread for longest."""
        if self._lingering:
            self._lingering.popitem(last=False)[0].peer.close()
            return True
        if self._idle:
            self._idle.popitem(last=False)[0].close()
            return True
        if self._end_worst(self._all, request, now):
            return True
        if self._unread:
            self._abort(next(iter(self._unread)), "too_many")
            return True
        return False

    def _end_worst(self, group: _Group, but: Unfinished, now: float) -> bool:
        worst = group.worst(now, but)
        if worst is None:
            return False
        self.ended["too_many"] += 1
        self._end(worst, "503 Service Unavailable", "unavailable", "too many requests are under way")
        return True

    def _end(self, request: Unfinished, status: str, code: str, message: str) -> None:
        self.finished(request)
        request.peer.refuse(status, code, message)


def is_late(request: Unfinished, now: float) -> bool:
    """Return whether the request has made no progress for too long, or is too slow in all."""
    if now - request.progress_at > STALL:
        return True
    limit = BODY_SECONDS + request.received / LEAST_RATE if request.in_body else HEAD_SECONDS
    return now - request.began > limit


def network_of(address: str) -> str:
    """Return what counts as one address: of IPv6 the network, of which one sender may have all."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
