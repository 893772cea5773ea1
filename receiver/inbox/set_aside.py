"""Entries of the inbox that were set aside: kept in Redis until a person acts on them, or their secret is known.

runhook:inbox:aside   a stream: the entry's fields, and `why`, `was` (its id in the inbox), `since`
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
import redis

from receiver.domain.frame import EARLIEST, FORGED, FRAME, LATEST, MACS, UNKNOWN_SOURCE
from receiver.inbox import ASIDE, GROUP, STREAM
from receiver.inbox.reader import Entry, InboxReader

# KEYS: inbox, entries set aside. ARGV: group, now, then an id and a reason for each entry. A script that has written
# once may continue in a full Redis, and this one frees memory of the inbox. Returns the number of moved entries.
_SET_ASIDE: Final = """
redis.call('XDEL', KEYS[1], '0-1')
local moved = 0
for i = 3, #ARGV, 2 do
  local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])
  if #found > 0 then
    local kept = {}
    for place = 1, math.min(#found[1][2], 64) do kept[place] = found[1][2][place] end
    for _, argument in ipairs({'why', ARGV[i + 1], 'was', ARGV[i], 'since', ARGV[2]}) do kept[#kept + 1] = argument end
    redis.call('XADD', KEYS[2], '*', unpack(kept))
    moved = moved + 1
  end
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
return moved
"""

# KEYS: inbox, what is set aside. ARGV: an entry's id there, its fields. Of two that try, one puts it back; also in a
# Redis that is full, as above.
_PUT_BACK: Final = """
if #redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], '0-1')
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
redis.call('XDEL', KEYS[2], ARGV[1])
return 1
"""
# A number, and not the entries: a body may have 16 MiB.
_HAS_FROM: Final = "return #redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 1)"
_LONGEST: Final = 200  # characters of a text that a list shows

log = logging.getLogger("runhook.dispatch")


@dataclass(frozen=True, slots=True)
class SetAsideEntry:
    """An entry that was set aside, as a list shows it. `since`: seconds since the epoch, None if that can't be read.
    `size`: bytes of its body."""

    aside_id: str
    why: str
    since: float | None
    source: str
    event_id: str
    size: int


def set_aside(client: redis.Redis, entries: Sequence[Entry]) -> int:
    """Set entries of the inbox aside for their `problem`, acknowledged. Returns how many were still there.

    Raises redis.RedisError.
    """
    if not entries:
        return 0
    arguments = [argument for each in entries for argument in (each.entry_id, each.problem)]
    moved: Any = client.eval(_SET_ASIDE, 2, STREAM, ASIDE, GROUP, repr(time.time()), *arguments)
    return int(moved)


def put_back(client: redis.Redis, reader: InboxReader, begin: str, until: float) -> str:
    """Put back what was set aside for its source or signature, and is right by the config of this process.

    A receiver that learns of a source or secret before the dispatcher does writes such entries. It looks at the entries
    from `begin` on, until `until` by time.monotonic(), and at one at least. Returns where to continue. Raises
    redis.RedisError.
    """
    count = 0
    for aside_id, fields in _entries(client, begin, 1):
        begin = f"({aside_id}"
        if fields.get(b"why", b"").decode(errors="replace") in (FORGED, UNKNOWN_SOURCE):
            (entry,) = reader.entries([(aside_id.encode(), fields)])
            if entry.event is not None:
                arguments = [argument for name in (FRAME, MACS) if name in fields for argument in (name, fields[name])]
                put: Any = client.eval(_PUT_BACK, 2, STREAM, ASIDE, aside_id, *arguments)
                count += int(put)
        if time.monotonic() >= until:
            break
    if count:
        log.warning("inbox.put_back entries=%d: signed by a key that is in the config now", count)
    return begin


def has_set_aside(client: redis.Redis, begin: str) -> bool:
    """Return whether there are entries from `begin` on. Raises redis.RedisError."""
    return bool(client.xlen(ASIDE) and client.eval(_HAS_FROM, 1, ASIDE, begin))


def _entries(client: redis.Redis, begin: str, page: int) -> Iterator[tuple[str, Mapping[bytes, bytes]]]:
    """Yield the id and the fields of what was set aside, from `begin` on. `page`: entries that are read at a time."""
    while client.type(ASIDE) == b"stream":
        found: Any = client.xrange(ASIDE, begin, "+", page)
        for aside_id, fields in found:
            yield aside_id.decode(), fields
        if not found:
            break
        begin = f"({found[-1][0].decode()}"


def list_set_aside(client: redis.Redis, page: int = 1) -> Iterator[SetAsideEntry]:
    """Yield what was set aside, the oldest first. `page`: entries of a request, whose bodies may be 16 MiB each.
    Raises redis.RedisError.
    """
    for aside_id, fields in _entries(client, "-", page):
        head, _, body = fields.get(FRAME, b"").partition(b"\n")
        about: Any = {}
        with suppress(ValueError):
            about = orjson.loads(head)
        named = about if isinstance(about, dict) else {}
        yield SetAsideEntry(
            aside_id,
            _text(fields.get(b"why")),
            _time(fields.get(b"since", b"")),
            _text(named.get("source")),
            _text(named.get("id")),
            len(body),
        )


def fields_of(client: redis.Redis, aside_id: str) -> Mapping[bytes, bytes] | None:
    """Return all fields of an entry; None when it is not there. Raises redis.RedisError."""
    if client.type(ASIDE) != b"stream":
        return None
    try:
        found: Any = client.xrange(ASIDE, aside_id, aside_id)
    except redis.ResponseError:  # it is not an id
        return None
    return dict(found[0][1]) if found else None


def drop_set_aside(client: redis.Redis, ids: Sequence[str]) -> int:
    """Delete entries that were set aside. Returns how many there were. Raises redis.RedisError."""
    return int(client.xdel(ASIDE, *ids)) if ids else 0


def drop_all(client: redis.Redis) -> int:
    """Delete all that was set aside. Returns how many entries there were. Raises redis.RedisError."""
    if client.type(ASIDE) != b"stream":
        return 0
    return int(client.xtrim(ASIDE, maxlen=0, approximate=False))


def _text(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
    return text[:_LONGEST]


def _time(text: bytes) -> float | None:
    with suppress(ValueError):
        seconds = float(text)
        return seconds if EARLIEST <= seconds <= LATEST else None
    return None
