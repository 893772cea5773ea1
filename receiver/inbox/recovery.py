"""Entries of the inbox that a dispatcher took and did not finish: taken again, and never lost.

Redis counts how often an entry was taken. A dispatcher that dies leaves what it had taken, so an entry that kills each
dispatcher would return forever, and its neighbours with it. Therefore, by that count:

    below ALONE   it is taken again, a few at a time
    from ALONE    alone
    from RAW      alone, and recorded as it is, unread
    from LAST     it is set aside in Redis, without being read

A ledger that is unavailable is not the entry's fault: `reset_delivery_count` takes the count back.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from receiver.inbox import GROUP, STREAM
from receiver.inbox.reader import Entry, InboxReader
from receiver.inbox.set_aside import set_aside

# Times that an entry was taken: see above.
ALONE: Final = 3
RAW: Final = 6
LAST: Final = 9
# Milliseconds that an entry must have been idle. One that is alone may take long to read; that of a reader that is
# known to be dead has been handed back, and counts as idle for an hour.
IDLE: Final = 8_000
IDLE_ALONE: Final = 20_000
HANDED_BACK: Final = 3_600_000
FORGET_AFTER: Final = 3_600_000  # milliseconds; a reader that is alive is known again by its next read
_MOST_LOOKS: Final = 64
KILLS: Final = "each dispatcher that read it died"

# KEYS: stream. ARGV: group, a dead reader, milliseconds. Forgets it, and all that were idle for longer, unless entries
# are pending for them: those would be lost.
_FORGET: Final = """
for _, reader in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local name, pending, idle = reader[2], reader[4], reader[6]
  if pending == 0 and (name == ARGV[2] or idle > tonumber(ARGV[3])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], name)
  end
end
"""

log = logging.getLogger("runhook.dispatch")


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken again. `times`: how often one that is `alone` had been taken. `raw`: it must not be read."""

    entries: Sequence[Entry]
    times: int = 0
    alone: bool = False
    raw: bool = False


class InboxRecovery:
    """Takes what others left, for one dispatcher process. Every method raises redis.RedisError."""

    def __init__(self, client: redis.Redis, reader: InboxReader) -> None:
        self._redis = client
        self._reader = reader

    def take(self, idle_ms: int = IDLE, alone_ms: int = IDLE_ALONE, count: int = 8) -> Taken | None:
        """Take entries that a reader took `idle_ms` ago and never acknowledged, or None.

        At most `count`, and about the bytes of one read; or one alone, which is retried only after `alone_ms`. Hopeless
        entries are set aside. Call it until it returns None.
        """
        for _ in range(_MOST_LOOKS):
            pending = self._pending(idle_ms)
            known = [each["message_id"] for each in pending if each["times_delivered"] < ALONE][:count]
            if known:
                if entries := self._claim(idle_ms, known):
                    return Taken(entries)
                continue  # another dispatcher was faster, or they are gone
            suspects = [each for each in pending if each["time_since_delivered"] >= alone_ms]
            if not suspects:
                return None
            entry_id, times = suspects[0]["message_id"], suspects[0]["times_delivered"]
            if times >= LAST:
                set_aside(self._redis, [Entry(entry_id.decode(), None, KILLS)])
                log.error("inbox.set_aside entry=%s reason=%s", entry_id.decode(), KILLS)
            elif entries := self._claim(alone_ms, [entry_id]):
                return Taken(entries, times, alone=True, raw=times >= RAW)
        return None

    def _pending(self, idle_ms: int) -> list[Any]:
        try:
            found: Any = self._redis.xpending_range(STREAM, GROUP, "-", "+", 256, idle=idle_ms)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return []
        return list(found)

    def _claim(self, idle_ms: int, ids: Sequence[bytes]) -> list[Entry]:
        """Take those of `ids` that are still idle, up to about the bytes of one read. Acknowledge what was deleted."""
        entries: list[Entry] = []
        size = 0
        for entry_id in ids:
            if size >= self._reader.read_bytes:
                break
            claimed: Any = self._redis.xclaim(STREAM, GROUP, self._reader.consumer, idle_ms, [entry_id])
            if [each for each, _ in claimed] == [None]:  # so Redis 6 says that it was deleted; later ones take it away
                self._redis.xack(STREAM, GROUP, entry_id)
                continue
            entries += self._reader.entries(claimed)
            size += sum(len(value) for _, fields in claimed for value in fields.values())
        return entries

    def reset_delivery_count(self, taken: Taken) -> None:
        """Do not count that an entry was taken alone: it failed for no fault of the entry."""
        if taken.alone:
            ids: list[Any] = [entry.entry_id for entry in taken.entries]
            self._redis.xclaim(STREAM, GROUP, self._reader.consumer, 0, ids, retrycount=taken.times, justid=True)


def hand_back(client: redis.Redis, consumer: str, forget_ms: int = FORGET_AFTER) -> int:
    """Make the pending entries of a dead reader idle, so that they are taken again at once. Forget ended readers.

    Returns how many those are. Raises redis.RedisError.
    """
    try:
        pending: Any = client.xpending_range(STREAM, GROUP, "-", "+", 1000, consumername=consumer)
    except redis.ResponseError as error:
        if "NOGROUP" not in str(error):
            raise
        return 0
    held = [each["message_id"] for each in pending]
    if held:
        client.xclaim(STREAM, GROUP, consumer, 0, held, idle=HANDED_BACK, justid=True)
    client.eval(_FORGET, 1, STREAM, GROUP, consumer, forget_ms)
    return len(held)
