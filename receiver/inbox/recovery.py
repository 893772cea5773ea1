"""Entries of the inbox that were taken and not finished, and those that can't be: they are set aside, never lost.

Redis counts how often an entry was taken. A dispatcher that dies leaves what it had taken, so an entry that kills each
dispatcher would come back for ever, and its neighbours with it. Therefore, by that count:

    1           it is taken again, a few at a time
    2 …         alone. While its body is read it counts as a death (DEATH), afterwards as one more time only: a ledger
                that is away, or a kill that it is not to blame for, must not look like its doing
    from RAW    two deaths of those who read it: it is recorded as it is, unread
    from LAST   and that failed as often: it is set aside where it is, in Redis, without being looked at

What is no event of ours (see domain/inbox_entry.py) is set aside at once: see aside.py. Redis's count is what
anybody says who can write there, so deaths are also noted with a MAC, and only those that were count.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from receiver.inbox.aside import set_aside
from receiver.inbox.reader import READ_BYTES, Entry, InboxReader
from receiver.inbox.scripts import WEIGH
from receiver.inbox.stream import GROUP, STREAM, spoilt

# Times that an entry was taken: see above.
ALONE: Final = 2
DEATH: Final = 10
RAW: Final = ALONE + 2 * DEATH
LAST: Final = RAW + 2 * DEATH
# Milliseconds that an entry must have been idle. One that is alone may take long to read; that of a reader that is
# known to be dead has been handed back, and counts as idle for an hour.
IDLE: Final = 8_000
IDLE_ALONE: Final = 20_000
HANDED_BACK: Final = 3_600_000
_MOST_LOOKS: Final = 64
# A hash: the id of an entry, and how many dispatchers died of it, with a MAC. Seconds for which it is kept.
DEATHS: Final = "runhook:inbox:deaths"
_REMEMBERED: Final = 7 * 86_400
KILLS: Final = "each dispatcher that read it died"

# KEYS: stream. ARGV: group, consumer, idle for how many milliseconds, how many bytes, the ids. What was deleted by hand
# is pending all the same.
_CLAIM = (
    WEIGH
    + """
local entries, size = {}, 0
for i = 5, #ARGV do
  if size >= tonumber(ARGV[4]) then break end
  if #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) == 0 then redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) end
  for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[i])) do
    if entry and entry[2] then
      entries[#entries + 1] = entry
      size = size + weigh(entry[2])
    end
  end
end
return entries
"""
)

log = logging.getLogger("runhook.dispatch")


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken again. `times`: how often it had been, of one that is `alone`, and `deaths` of its dispatchers.
    `raw`: it must not be read."""

    entries: Sequence[Entry]
    times: int = 0
    alone: bool = False
    raw: bool = False
    deaths: int = 0


class InboxRecovery:
    """Takes what others left, for one dispatcher process. Every method raises redis.RedisError."""

    def __init__(self, client: redis.Redis, reader: InboxReader) -> None:
        self._redis = client
        self._reader = reader

    def take(self, idle_ms: int = IDLE, alone_ms: int = IDLE_ALONE, count: int = 8) -> Taken | None:
        """Take entries that a reader took `idle_ms` ago and never acknowledged; None if there are none.

        Up to `count`, about READ_BYTES; or one alone, which is tried again after `alone_ms` only. Those that are beyond
        help are set aside, and the rest is looked at once more. Call it again until there are none.
        """
        for _ in range(_MOST_LOOKS):
            pending = self._pending(idle_ms)
            known = [each["message_id"] for each in pending if each["times_delivered"] < ALONE][:count]
            if known:
                claimed: Any = self._redis.eval(
                    _CLAIM, 1, STREAM, GROUP, self._reader.consumer, idle_ms, READ_BYTES, *known
                )
                fields = [(entry_id, dict(zip(it := iter(values), it, strict=True))) for entry_id, values in claimed]
                if fields:
                    return Taken(self._reader.entries(fields))
                continue  # another dispatcher was faster, or they are gone
            suspects = [each for each in pending if each["time_since_delivered"] >= alone_ms]
            if not suspects:
                return None
            if found := self._take_alone(suspects[0]["message_id"], suspects[0]["times_delivered"], alone_ms):
                return found
        return None

    def _pending(self, idle_ms: int) -> list[Any]:
        try:
            found: Any = self._redis.xpending_range(STREAM, GROUP, "-", "+", 256, idle=idle_ms)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return []
        return list(found)

    def _take_alone(self, entry_id: bytes, counted: int, idle_ms: int) -> Taken | None:
        deaths = self._deaths(entry_id)
        # Who can write in Redis can have it count as he likes, but not for more deaths than there were.
        times = min(counted, ALONE + DEATH * (deaths + 1) - 1)
        if times >= LAST:
            set_aside(self._redis, [Entry(entry_id.decode(), None, KILLS)])
            self._redis.hdel(DEATHS, entry_id)
            log.error("inbox.set_aside entry=%s reason=%s", entry_id.decode(), KILLS)
            return None
        self._note_deaths(entry_id, deaths + 1)
        claimed: Any = self._redis.xclaim(
            STREAM, GROUP, self._reader.consumer, idle_ms, [entry_id], retrycount=times + DEATH
        )
        entries = self._reader.entries(claimed)
        return Taken(entries, times, alone=True, raw=times >= RAW, deaths=deaths) if entries else None

    def survived(self, taken: Taken) -> None:
        """Note that the body of the one that is alone was read, and nobody died."""
        self._count(taken, taken.times + 1)

    def excuse(self, taken: Taken) -> None:
        """Count the taking as none: it failed for no fault of the entry."""
        self._count(taken, taken.times)

    def _count(self, taken: Taken, times: int) -> None:
        if taken.alone:
            ids: list[Any] = [entry.entry_id for entry in taken.entries]
            self._redis.xclaim(STREAM, GROUP, self._reader.consumer, 0, ids, retrycount=times, justid=True)
            for entry in taken.entries:
                self._note_deaths(entry.entry_id.encode(), taken.deaths)

    def _deaths(self, entry_id: bytes) -> int:
        """Return how often a dispatcher took the entry alone and did not come back, as one of us has noted it."""
        try:
            found: Any = self._redis.hget(DEATHS, entry_id)
        except redis.ResponseError:  # a stranger made it something else
            self._redis.delete(DEATHS)
            return 0
        count, _, seal = (found or b"").partition(b" ")
        return int(count) if count.isdigit() and self._reader.seals(_noted(entry_id, count), seal) else 0

    def _note_deaths(self, entry_id: bytes, deaths: int) -> None:
        count = b"%d" % deaths
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hset(DEATHS, entry_id, count + b" " + self._reader.seal(_noted(entry_id, count)))
            pipeline.expire(DEATHS, _REMEMBERED)
            pipeline.execute()

    def forget(self, taken: Taken) -> None:
        """Note that an entry that was alone is done."""
        if taken.alone:
            self._redis.hdel(DEATHS, *(entry.entry_id for entry in taken.entries))


def _noted(entry_id: bytes, count: bytes) -> bytes:
    return b"deaths\0%b\0%b" % (entry_id, count)


def hand_back(client: redis.Redis, consumer: str) -> int:
    """Make the pending entries of a dead reader idle, so that they are taken again at once.

    Returns how many those are. Raises redis.RedisError.
    """
    try:
        pending: Any = client.xpending_range(STREAM, GROUP, "-", "+", 1000, consumername=consumer)
    except redis.ResponseError as error:
        if "NOGROUP" not in str(error) and not spoilt(error):
            raise
        return 0
    held = [each["message_id"] for each in pending]
    if held:
        client.xclaim(STREAM, GROUP, consumer, 0, held, idle=HANDED_BACK, justid=True)
    else:
        client.xgroup_delconsumer(STREAM, GROUP, consumer)  # with pending entries they would be lost
    return len(held)
