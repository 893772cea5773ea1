"""What waits in the inbox, for those who only look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from receiver.inbox.stream import ASIDE, GROUP, LEFT, STREAM, spoilt_as


@dataclass(frozen=True, slots=True)
class InboxState:
    """What waits in the inbox. `pending`: read by a dispatcher and not acknowledged. `oldest`: seconds since the oldest
    entry was written, by the server's clock; None for an empty inbox. `size`: about how many bytes. `trouble`: why
    nothing can be read from it, or "". `set_aside`: entries that could not be read, or ended their dispatcher.
    `unknown_sources`: of entries that a worker left in the inbox, since its config lacks their source."""

    entries: int = 0
    pending: int = 0
    oldest: float | None = None
    size: int = 0
    trouble: str = ""
    set_aside: int = 0
    unknown_sources: tuple[str, ...] = ()


def examine(client: redis.Redis) -> InboxState:
    """Return the state of the inbox. Raises redis.RedisError."""
    kind: Any = client.type(STREAM)
    if wrong := spoilt_as(kind):
        return InboxState(trouble=wrong)
    first: Any = client.xrange(STREAM, count=1)
    with client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.xlen(STREAM)
        pipeline.memory_usage(STREAM)
        pipeline.xpending(STREAM, GROUP)
        pipeline.xlen(ASIDE)
        pipeline.smembers(LEFT)
        (seconds, micros), *depth, pending, aside, left = pipeline.execute(raise_on_error=False)
    entries, size = _depth(depth)
    oldest = seconds + micros / 1e6 - int(first[0][0].split(b"-")[0]) / 1000 if first else None
    held = 0 if isinstance(pending, Exception) else int(pending["pending"])  # no group yet: nothing was read
    sources = sorted(each.decode(errors="replace") for each in left) if isinstance(left, set) else ()
    # An error says that something else wrote the key of what is set aside.
    return InboxState(entries, held, oldest, size, "", aside if isinstance(aside, int) else 0, tuple(sources))


def _depth(replies: Sequence[Any]) -> tuple[int, int]:
    """Return (entries, bytes) from the replies to XLEN and MEMORY USAGE; the latter may be forbidden, or nil."""
    events, size = replies
    if isinstance(events, Exception):
        raise events
    return int(events), size if isinstance(size, int) else 0
