"""The reader of the inbox, for one dispatcher process. stream.py describes what it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import redis

from receiver.domain.event import Event
from receiver.domain.frame import EntryKeys, read_entry
from receiver.inbox import GROUP, STREAM

# Bytes after which a read takes no more entries: 256 bodies of 16 MiB would fill the memory of a small machine.
READ_BYTES: Final = 16 << 20
_STEP: Final = 8  # entries that are read at a time before their bytes are counted

# KEYS: stream. ARGV: group, consumer, how many entries, how many bytes, how many entries at a time. Where the stream is
# larger than this number of bytes, any entry may be large, so each is read alone.
_READ: Final = """
local entries, size = {}, 0
local all = redis.pcall('MEMORY', 'USAGE', KEYS[1])
if type(all) ~= 'number' or all > tonumber(ARGV[4]) then ARGV[5] = 1 end
while #entries < tonumber(ARGV[3]) and size < tonumber(ARGV[4]) do
  local step = math.min(tonumber(ARGV[5]), tonumber(ARGV[3]) - #entries)
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', step, 'STREAMS', KEYS[1], '>')
  if not reply then break end
  for _, entry in ipairs(reply[1][2]) do
    entries[#entries + 1] = entry
    for i = 2, #entry[2], 2 do size = size + #entry[2][i] end
  end
end
return entries
"""

# KEYS: stream. ARGV: group, ids of entries. Not a transaction: a Redis that is full takes none.
_DONE: Final = """
local group = table.remove(ARGV, 1)
redis.call('XACK', KEYS[1], group, unpack(ARGV))
redis.call('XDEL', KEYS[1], unpack(ARGV))
"""


class Entry(NamedTuple):
    """One entry as read. `event`: None when it can't be recorded, for `problem`."""

    entry_id: str
    event: Event | None
    problem: str = ""


class InboxReader:
    """Reads events, for one dispatcher process. Every method raises redis.RedisError.

    `redis`: a client that leaves replies as bytes. `consumer`: the name of this process among the readers. `keys`: what
    entries must be signed with; None to check no signature. `read_bytes`: after which a read takes no more entries.
    """

    def __init__(
        self,
        redis: redis.Redis,
        consumer: str,
        keys: EntryKeys | None = None,
        read_bytes: int = READ_BYTES,
    ) -> None:
        self._redis = redis
        self.consumer = consumer
        self._keys = keys
        self.read_bytes = read_bytes
        # Called before a read creates the inbox, in a Redis that is new or has lost its data.
        self.on_missing: Callable[[], None] = lambda: None
        self._finished: list[str] = []  # entries that are not acknowledged yet

    def ensure(self) -> None:
        """Make the stream and its group if Redis has none (it is new, or has lost everything)."""
        try:
            self._redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def read(self, count: int = 256, block_ms: int | None = None) -> list[Entry]:
        """Read up to `count` new entries, which are then pending for this consumer; or [].

        `block_ms`: wait so long for the first one (less than the client's socket timeout); None does not wait.
        """
        try:
            reply = self._read(count, block_ms)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self.on_missing()
            self.ensure()
            reply = self._read(count, None)
        return self.entries(reply)

    def read_at(self) -> float:
        """Return when the newest entry that any reader has read was added, by Redis's clock; infinite for none."""
        try:
            groups: Any = self._redis.xinfo_groups(STREAM)
        except redis.ResponseError:  # there is no inbox, or another key: `read` reports it
            return math.inf
        times = [int(each["last-delivered-id"].split(b"-")[0]) / 1000 for each in groups]
        return max(times, default=0.0) or math.inf

    def _read(self, count: int, block_ms: int | None) -> Any:
        pipeline: Any = self._redis.pipeline(transaction=False)
        blocks = block_ms is not None
        if blocks:  # a script can't wait; what it then adds must leave room for the one waited for
            pipeline.xreadgroup(GROUP, self.consumer, {STREAM: ">"}, count=1, block=block_ms)
        acknowledged = self._acknowledge(pipeline)
        pipeline.eval(_READ, 1, STREAM, GROUP, self.consumer, count - blocks, self.read_bytes, _STEP)
        replies = pipeline.execute()
        del self._finished[:acknowledged]
        more = ((entry_id, dict(zip(it := iter(fields), it, strict=True))) for entry_id, fields in replies[-1])
        return [*(_only(replies[0]) if blocks and replies[0] else []), *more]

    def entries(self, reply: Iterable[Any]) -> list[Entry]:
        """Return the entries of a reply of Redis: pairs of their ids and fields."""
        return [self._entry(entry_id.decode(), fields) for entry_id, fields in reply]

    def _entry(self, entry_id: str, fields: Any) -> Entry:
        found = read_entry(fields, self._keys)
        return Entry(entry_id, found) if isinstance(found, Event) else Entry(entry_id, None, found)

    def done(self, entry_ids: Sequence[str]) -> None:
        """Have entries acknowledged and deleted that the ledger has: with the next read, or by `flush`."""
        self._finished += entry_ids

    def flush(self, then: Iterable[tuple[Any, ...]] = ()) -> None:
        """Acknowledge and delete now what is done. `then`: commands of the same request, so that it is one fsync; a
        full Redis refuses them, which is not an error."""
        pipeline: Any = self._redis.pipeline(transaction=False)
        acknowledged = self._acknowledge(pipeline)
        for command in then:
            pipeline.execute_command(*command)
        replies = pipeline.execute(raise_on_error=False)
        if acknowledged and not isinstance(replies[0], Exception):
            del self._finished[:acknowledged]
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, redis.OutOfMemoryError):
                raise reply

    def _acknowledge(self, pipeline: Any) -> int:
        """Add what is done to a request. Returns how many entries those are."""
        if self._finished:
            pipeline.eval(_DONE, 1, STREAM, GROUP, *self._finished)
        return len(self._finished)


def _only(reply: Any) -> Any:
    """Return the entries of the one stream in a reply to XREADGROUP."""
    if isinstance(reply, dict):  # RESP3
        (batches,) = reply.values()
        return batches[0] if batches and isinstance(batches[0], list) else batches
    return reply[0][1]
