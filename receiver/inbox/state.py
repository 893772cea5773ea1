"""What waits in the inbox, for those who only look."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import redis

from receiver.domain.frame import FRAME, begins_with_id, read_head
from receiver.inbox import ASIDE, GROUP, STREAM, depth_of

# The trouble, with its fix, when another program has written the inbox's key.
OVERWRITTEN: Final = (
    f"the key {STREAM} in Redis is not a stream, so another program has written it: rename it "
    f"(RENAME {STREAM} {STREAM}.wrong), and Runhook resumes automatically"
)
# Bytes and entries that a search reads at a time, and the seconds that it may take.
_PAGE_BYTES: Final = 8 << 20
_PAGE: Final = 1_000
_SEARCH: Final = 3.0
# KEYS: stream. ARGV: first entry, how many, first bytes of a frame. Returns how many entries come before the one with
# that frame, its id, and the first bytes of the frame; without such an entry, how many there are, and the last id.
_FIND: Final = f"""
local found = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
for place, entry in ipairs(found) do
  for i = 1, #entry[2], 2 do
    if entry[2][i] == '{FRAME.decode()}' and string.sub(entry[2][i + 1], 1, #ARGV[3]) == ARGV[3] then
      return {{place - 1, entry[1], string.sub(entry[2][i + 1], 1, 2048)}}
    end
  end
end
return {{#found, #found > 0 and found[#found][1] or ''}}
"""


@dataclass(frozen=True, slots=True)
class InboxState:
    """What waits in the inbox. `pending`: read by a dispatcher and not acknowledged. `oldest`: seconds since the oldest
    entry was written, by the server's clock; None for an empty inbox. `size`: about how many bytes, with what was set
    aside. `trouble`: why nothing can be read from it, or "". `set_aside`: entries that could not be read, or ended
    their dispatcher. `rate`: by how many entries a second it shrank in the last seconds; 0.0 if it did not."""

    entries: int = 0
    pending: int = 0
    oldest: float | None = None
    size: int = 0
    trouble: str = ""
    set_aside: int = 0
    rate: float = 0.0


def examine(client: redis.Redis) -> InboxState:
    """Return the state of the inbox. Raises redis.RedisError."""
    if client.type(STREAM) not in (b"stream", b"none"):
        return InboxState(trouble=OVERWRITTEN)
    first: Any = client.xrange(STREAM, count=1)
    with client.pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.xlen(STREAM)
        pipeline.memory_usage(STREAM)
        pipeline.memory_usage(ASIDE)
        pipeline.xpending(STREAM, GROUP)
        pipeline.xlen(ASIDE)
        (seconds, micros), *depth, pending, aside = pipeline.execute(raise_on_error=False)
    entries, size = depth_of(*depth)
    oldest = seconds + micros / 1e6 - int(first[0][0].split(b"-")[0]) / 1000 if first else None
    held = 0 if isinstance(pending, Exception) else int(pending["pending"])  # no group yet: nothing was read
    # An error says that something else wrote the key of what is set aside.
    return InboxState(entries, held, oldest, size, "", aside if isinstance(aside, int) else 0)


class WaitingEvent(NamedTuple):
    """An acknowledged event that is not in the ledger yet. `ahead`: events before it. `at`: when it was received."""

    id: str
    source: str
    at: float
    ahead: int


def find(client: redis.Redis, beginning: str) -> WaitingEvent | None:
    """Return the event in the inbox whose id begins with `beginning`; None if it is not found in _SEARCH seconds.

    Raises redis.RedisError.
    """
    count, size = int(client.xlen(STREAM)), client.memory_usage(STREAM) or 0
    page = max(1, min(_PAGE, _PAGE_BYTES * count // max(int(size), 1)))
    ahead, start, until = 0, "-", time.monotonic() + _SEARCH
    while time.monotonic() < until:
        before, entry, *frame = client.eval(_FIND, 1, STREAM, start, page, begins_with_id(beginning))
        ahead += before
        if frame:
            head = read_head(frame[0])
            return None if head is None else WaitingEvent(*head, ahead)
        if before < page:
            return None
        start = f"({entry.decode()}"
    return None
