"""Entries of the inbox that were set aside: kept in Redis until somebody acts on them, or their config is known.

    runhook:inbox:aside             entries that may be events which a receiver has acked, though no key or source that
                                    this config knows has signed them: none is ever dropped
    runhook:inbox:aside:unproven    entries whose fields are no event's, which no receiver writes: the newest are kept,
                                    up to UNPROVEN of them and UNPROVEN_BYTES

In both an entry has the fields that it had, and why, was (its id in the inbox), since. An id of the second one begins
with "u" where people see it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import redis

from receiver.domain.inbox_entry import EARLIEST, FORGED, LATEST, NO_EVENT, UNKNOWN_SOURCE
from receiver.inbox.reader import Entry, InboxReader
from receiver.inbox.stream import ASIDE, GROUP, STREAM, UNPROVEN_ASIDE

UNPROVEN: Final = 10_000
UNPROVEN_BYTES: Final = 64 << 20
# Why an entry is none that a receiver can have written. One that no known key has signed may come of a receiver whose
# config has a newer secret or source: acked, so it must not be dropped.
_UNPROVEN_REASONS: Final = frozenset({NO_EVENT})

# Adds to a stream that a stranger may have made something else, or whose ids he may have used up: then what is there
# gets new ids. An entry of his may have more fields than Lua can pass on.
_PUT: Final = """
local function few(fields)
  local kept = {}
  for place = 1, math.min(#fields, 64) do kept[place] = fields[place] end
  return kept
end
local function put(key, kept)
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and kind ~= 'stream' then redis.call('RENAME', key, key .. ':' .. kind) end
  if not redis.pcall('XADD', key, '*', unpack(kept)).err then return end
  local old, first = key .. ':ids-used-up', '-'
  redis.call('RENAME', key, old)
  while true do
    local entries = redis.pcall('XRANGE', old, first, '+', 'COUNT', 100)
    if #entries == 0 then break end  -- nor is there an id after the last one
    for _, entry in ipairs(entries) do redis.call('XADD', key, '*', unpack(few(entry[2]))) end
    first = '(' .. entries[#entries][1]
  end
  redis.call('DEL', old)
  redis.call('XADD', key, '*', unpack(kept))
end
"""

# KEYS: inbox, what is set aside, what is unproven of it. ARGV: group, now, most unproven, most bytes of them, then an
# entry's id, why, and "1" if it is proven, for each. A script that has written once, were it nothing, may go on in a
# Redis that is full; and this one makes room in the inbox. Returns how many were moved, and dropped.
_SET_ASIDE: Final = (
    _PUT
    + """
redis.call('XDEL', KEYS[1], '0-1')
local moved, before = 0, 0
for i = 5, #ARGV, 3 do
  local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
  if #found > 0 then
    local kept = few(found[1][2])
    for _, part in ipairs({'why', ARGV[i + 1], 'was', ARGV[i], 'since', ARGV[2]}) do kept[#kept + 1] = part end
    put(ARGV[i + 2] == '1' and KEYS[2] or KEYS[3], kept)
    moved = moved + 1
  end
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
if redis.call('TYPE', KEYS[3]).ok ~= 'stream' then return {moved, 0} end
local dropped = redis.call('XTRIM', KEYS[3], 'MAXLEN', ARGV[3])
local left = redis.call('XLEN', KEYS[3])
while left > 1 do
  local size = redis.pcall('MEMORY', 'USAGE', KEYS[3], 'SAMPLES', 0)
  if type(size) ~= 'number' or size <= tonumber(ARGV[4]) then break end
  dropped = dropped + redis.call('XTRIM', KEYS[3], 'MAXLEN', math.floor(left * 0.9))
  left = redis.call('XLEN', KEYS[3])
end
return {moved, dropped}
"""
)

# KEYS: a place of what is set aside. ARGV: from which id on, how many bytes. Returns entries, each with no fields if
# those alone are more.
_NEXT: Final = """
local entries, size, first = {}, 0, ARGV[1]
for _ = 1, 64 do
  local found = redis.pcall('XRANGE', KEYS[1], first, '+', 'COUNT', 1)
  if #found == 0 then break end  -- nor is there an id after the last one
  local own = 0
  for _, value in ipairs(found[1][2]) do own = own + #value end
  if #entries > 0 and size + own > tonumber(ARGV[2]) then break end
  size, first = size + own, '(' .. found[1][1]
  entries[#entries + 1] = {found[1][1], own <= tonumber(ARGV[2]) and found[1][2] or {}}
end
return entries
"""

# KEYS: a place of what is set aside. ARGV: from which id on, how many, how many bytes of a text. Returns of each entry
# what a list shows: its id, why, since, source, the event's id, bytes of the body.
_SHOW: Final = """
local shown = {}
for _, entry in ipairs(redis.pcall('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])) do
  local it = {}
  for i = 1, #entry[2], 2 do it[entry[2][i]] = entry[2][i + 1] end
  local row = {entry[1]}
  for _, name in ipairs({'why', 'since', 'source', 'id'}) do
    row[#row + 1] = string.sub(it[name] or '', 1, tonumber(ARGV[3]))
  end
  row[#row + 1] = #(it.body or '')
  shown[#shown + 1] = row
end
return shown
"""

# KEYS: inbox, a place of what is set aside. ARGV: an entry's id there, its fields. Of two that try, one puts it back;
# also in a Redis that is full, as above.
_PUT_BACK: Final = """
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], '0-1')
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[2], ARGV[1])
return 1
"""

_FIELDS: Final = (b"id", b"source", b"size", b"body", b"at", b"via", b"sub", b"mac")
# Entries of one place that are looked at again at the most, and bytes of one, and of several at a time: a stranger may
# have written them.
_MOST_ASIDE: Final = 1_000_000
_LARGEST_ASIDE: Final = 128 << 20
_LONGEST: Final = 200  # characters of a text that a list shows
_MARK: Final = "u"

log = logging.getLogger("runhook.dispatch")


@dataclass(frozen=True, slots=True)
class AsideEntry:
    """An entry that was set aside, as a list shows it. `since`: seconds since the epoch, None where a stranger has
    written something else. `size`: bytes of its body."""

    aside_id: str
    why: str
    since: float | None
    source: str
    event_id: str
    size: int


def set_aside(client: redis.Redis, entries: Sequence[Entry]) -> int:
    """Set entries of the inbox aside for their `problem`, acknowledged. Returns how many were still there.

    Of those that are unproven the oldest are dropped where there are too many. Raises redis.RedisError.
    """
    if not entries:
        return 0
    parts = [
        part
        for each in entries
        for part in (each.entry_id, each.problem, "0" if each.problem in _UNPROVEN_REASONS else "1")
    ]
    moved, dropped = client.eval(
        _SET_ASIDE, 3, STREAM, ASIDE, UNPROVEN_ASIDE, GROUP, repr(time.time()), UNPROVEN, UNPROVEN_BYTES, *parts
    )
    if dropped:
        log.warning("inbox.dropped entries=%d: too many that no key of ours has signed; the oldest of them", dropped)
    return int(moved)


def put_back(client: redis.Redis, reader: InboxReader) -> int:
    """Put back what was set aside for its signature, source or form, and is right by the config of this process.

    A receiver that learns of a secret or source before the dispatcher does writes such entries; so does one of a newer
    release than the dispatcher's. Returns how many there were. Raises redis.RedisError.
    """
    count = sum(_put_back(client, reader, place) for place in (ASIDE, UNPROVEN_ASIDE))
    if count:
        log.warning("inbox.put_back entries=%d: signed by a key and of a source that are in the config now", count)
    return count


def _put_back(client: redis.Redis, reader: InboxReader, place: str) -> int:
    count = looked = 0
    begin = "-"
    with suppress(redis.ResponseError):  # somebody else wrote one of the keys: that must hold up nothing
        while looked < _MOST_ASIDE:
            found: Any = client.eval(_NEXT, 1, place, begin, _LARGEST_ASIDE)
            if not found:
                break
            looked, begin = looked + len(found), "(" + found[-1][0].decode()
            for aside_id, values in found:
                fields: dict[bytes, bytes] = dict(zip(it := iter(values), it, strict=False))
                if not _may_be_right_now(fields):
                    continue
                (entry,) = reader.entries([(aside_id, fields)])
                if entry.event is not None:
                    parts = [part for name in _FIELDS if name in fields for part in (name, fields[name])]
                    put: Any = client.eval(_PUT_BACK, 2, STREAM, place, aside_id, *parts)
                    count += int(put)
    return count


def _may_be_right_now(fields: Mapping[bytes, bytes]) -> bool:
    why = fields.get(b"why", b"").decode(errors="replace")
    # What looks like no event may be one of a newer receiver's form; its signature alone tells.
    return why in (FORGED, UNKNOWN_SOURCE) or (why == NO_EVENT and b"mac" in fields)


def list_aside(client: redis.Redis, page: int = 256) -> Iterator[AsideEntry]:
    """Yield what was set aside, the oldest first, and after that what is unproven. `page`: entries that are read at a
    time, without their bodies. Raises redis.RedisError."""
    for place, mark in ((ASIDE, ""), (UNPROVEN_ASIDE, _MARK)):
        begin = "-"
        while client.type(place) == b"stream":
            found: Any = client.eval(_SHOW, 1, place, begin, page, 4 * _LONGEST)
            for aside_id, why, since, *named, size in found:
                source, event_id = map(_text, named)
                yield AsideEntry(mark + aside_id.decode(), _text(why), _time(since), source, event_id, int(size))
            if not found:
                break
            begin = "(" + found[-1][0].decode()


def fields_of(client: redis.Redis, aside_id: str) -> Mapping[bytes, bytes] | None:
    """Return all fields of an entry; None when it is not there. Raises redis.RedisError."""
    place, name = _placed(aside_id)
    if client.type(place) != b"stream":
        return None
    try:
        found: Any = client.xrange(place, name, name)
    except redis.ResponseError:  # it is no id
        return None
    return dict(found[0][1]) if found else None


def drop_aside(client: redis.Redis, ids: Sequence[str]) -> int:
    """Delete entries that were set aside. Returns how many there were. Raises redis.RedisError."""
    return sum(int(client.xdel(*_placed(each))) for each in ids)


def drop_all(client: redis.Redis) -> int:
    """Delete all that was set aside. Returns how many entries there were. Raises redis.RedisError."""
    places = [each for each in (ASIDE, UNPROVEN_ASIDE) if client.type(each) == b"stream"]
    return sum(int(client.xtrim(each, maxlen=0, approximate=False)) for each in places)


def _placed(aside_id: str) -> tuple[str, str]:
    return (UNPROVEN_ASIDE, aside_id.removeprefix(_MARK)) if aside_id.startswith(_MARK) else (ASIDE, aside_id)


def _text(value: bytes) -> str:
    return value.decode(errors="replace")[:_LONGEST]


def _time(text: bytes) -> float | None:
    with suppress(ValueError):
        seconds = float(text)
        return seconds if EARLIEST <= seconds <= LATEST else None
    return None
