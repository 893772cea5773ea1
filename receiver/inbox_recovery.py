"""Entries of the inbox that were taken and not finished, and those that can't be: they are set aside, never lost.

Redis counts how often an entry was taken. A dispatcher that dies leaves what it had taken, so an entry that kills each
dispatcher would come back for ever, and its neighbours with it. Therefore, by that count:

    1           it is taken again, a few at a time
    2 …         alone. While its body is read it counts as a death (DEATH), afterwards as one more time only: a ledger
                that is away, or a kill that it is not to blame for, must not look like its doing
    from RAW    two deaths of those who read it: it is recorded as it is, unread
    from LAST   and that failed as often: it is set aside where it is, in Redis, without being looked at

What is no event of ours (see domain/inbox_entry.py) is set aside at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import redis

from receiver.domain.inbox_entry import EARLIEST, FORGED, LATEST, UNKNOWN_SOURCE
from receiver.inbox import ASIDE, GROUP, READ_BYTES, STREAM, Entry, InboxReader, spoilt

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
KILLS: Final = "each dispatcher that read it died"

# KEYS: stream. ARGV: group, consumer, idle for how many milliseconds, how many bytes, the ids. What was deleted by hand
# is pending all the same.
_CLAIM = """
local entries, size = {}, 0
for i = 5, #ARGV do
  if size >= tonumber(ARGV[4]) then break end
  if #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) == 0 then redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) end
  for _, entry in ipairs(redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[i])) do
    if entry and entry[2] then
      entries[#entries + 1] = entry
      for _, value in ipairs(entry[2]) do size = size + #value end
    end
  end
end
return entries
"""

# KEYS: stream, where what is set aside goes. ARGV: group, now, then an entry's id and why, for each.
# An entry of a stranger may have more fields than Lua can pass on; another one may have made the second key a string,
# or used up its ids. A script that has written once, were it nothing, may go on in a Redis that is full; and this one
# makes room in the inbox.
_SET_ASIDE = """
redis.call('XDEL', KEYS[1], '0-1')
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'none' and kind ~= 'stream' then redis.call('RENAME', KEYS[2], KEYS[2] .. ':' .. kind) end
local moved = 0
for i = 3, #ARGV, 2 do
  local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
  if #found > 0 then
    local fields, kept = found[1][2], {}
    for place = 1, math.min(#fields, 64) do kept[place] = fields[place] end
    for _, part in ipairs({'why', ARGV[i + 1], 'was', ARGV[i], 'since', ARGV[2]}) do kept[#kept + 1] = part end
    if redis.pcall('XADD', KEYS[2], '*', unpack(kept)).err then
      redis.call('RENAME', KEYS[2], KEYS[2] .. ':full:' .. ARGV[2])
      redis.call('XADD', KEYS[2], '*', unpack(kept))
    end
    moved = moved + 1
  end
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
return moved
"""

# KEYS: where what is set aside goes. ARGV: from which id on, how many bytes. Returns the next entry's id, and its
# fields unless they are more.
_NEXT_ASIDE = """
local found, size = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 1), 0
if #found == 0 then return {} end
for _, value in ipairs(found[1][2]) do size = size + #value end
return {found[1][1], size <= tonumber(ARGV[2]) and found[1][2] or {}}
"""
# KEYS: stream, where what is set aside goes. ARGV: an entry's id there, its fields. Of two that try, one puts it back;
# also in a Redis that is full, as above.
_PUT_BACK = """
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], '0-1')
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[2], ARGV[1])
return 1
"""
_FIELDS: Final = (b"id", b"source", b"body", b"at", b"via", b"sub", b"mac")
# Entries that are looked at again at the most, and bytes of one: a stranger may have written it.
_MOST_ASIDE: Final = 1024
_LARGEST_ASIDE: Final = 128 << 20

log = logging.getLogger("runhook.dispatch")


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken again. `times`: how often it had been, of one that is `alone`. `raw`: it must not be read."""

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

    def _take_alone(self, entry_id: bytes, times: int, idle_ms: int) -> Taken | None:
        if times >= LAST:
            self._move([(entry_id, KILLS)])
            log.error("inbox.set_aside entry=%s reason=%s", entry_id.decode(), KILLS)
            return None
        claimed: Any = self._redis.xclaim(
            STREAM, GROUP, self._reader.consumer, idle_ms, [entry_id], retrycount=times + DEATH
        )
        entries = self._reader.entries(claimed)
        return Taken(entries, times, alone=True, raw=times >= RAW) if entries else None

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

    def set_aside(self, entries: Sequence[Entry]) -> int:
        """Set entries aside for their `problem`, acknowledged. Returns how many were still there."""
        return self._move([(entry.entry_id, entry.problem) for entry in entries]) if entries else 0

    def put_back(self) -> int:
        """Put back what was set aside for its signature or source, and is right by the config of this process.

        A receiver that learns of a secret or source before the dispatcher does writes such entries. Returns how many
        there were; of very many only the oldest are looked at.
        """
        count, begin = 0, "-"
        with suppress(redis.ResponseError):  # somebody else wrote one of the keys: that must hold up nothing
            for _ in range(_MOST_ASIDE):
                found: Any = self._redis.eval(_NEXT_ASIDE, 1, ASIDE, begin, _LARGEST_ASIDE)
                if not found:
                    break
                begin = "(" + found[0].decode()
                fields: dict[bytes, bytes] = dict(zip(it := iter(found[1]), it, strict=False))
                if fields.get(b"why", b"").decode(errors="replace") not in (FORGED, UNKNOWN_SOURCE):
                    continue
                (entry,) = self._reader.entries([(found[0], fields)])
                if entry.event is not None:
                    parts = [part for name in _FIELDS for part in (name, fields.get(name, b""))]
                    put: Any = self._redis.eval(_PUT_BACK, 2, STREAM, ASIDE, found[0], *parts)
                    count += int(put)
        if count:
            log.warning("inbox.put_back entries=%d: their secrets or sources are in the config now", count)
        return count

    def _move(self, entries: Sequence[tuple[Any, str]]) -> int:
        parts = [part for entry in entries for part in entry]
        moved: Any = self._redis.eval(_SET_ASIDE, 2, STREAM, ASIDE, GROUP, repr(time.time()), *parts)
        return int(moved)


@dataclass(frozen=True, slots=True)
class AsideEntry:
    """An entry that was set aside. `fields`: all that it had; `since`: seconds since the epoch, None where a stranger
    has written something else."""

    aside_id: str
    why: str
    since: float | None
    fields: Mapping[bytes, bytes]


def list_aside(client: redis.Redis, count: int | None = None) -> list[AsideEntry]:
    """Return what was set aside, the oldest first. Raises redis.RedisError."""
    found: Any = client.xrange(ASIDE, count=count)
    return [
        AsideEntry(entry_id.decode(), _text(fields, b"why")[:200], _time(fields), fields) for entry_id, fields in found
    ]


def drop_aside(client: redis.Redis, ids: Sequence[str]) -> int:
    """Delete entries that were set aside. Returns how many there were. Raises redis.RedisError."""
    return int(client.xdel(ASIDE, *ids)) if ids else 0


def _time(fields: Mapping[bytes, bytes]) -> float | None:
    with suppress(ValueError):
        seconds = float(fields.get(b"since", b""))
        return seconds if EARLIEST <= seconds <= LATEST else None
    return None


def _text(fields: Mapping[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode(errors="replace")


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
