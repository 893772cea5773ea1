"""The reader of the inbox, for one dispatcher process. stream.py says what it reads."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import redis

from receiver.domain.event import Event
from receiver.domain.inbox_entry import EntryKeys, read_entry
from receiver.domain.packed_body import LARGEST
from receiver.inbox.scripts import DONE, READ, TIDY
from receiver.inbox.stream import GROUP, STREAM, UNPACKS

# Bytes after which a read takes no more entries: 256 bodies of 16 MiB would fill the memory of a small machine.
READ_BYTES: Final = 16 << 20
_STEP: Final = READ_BYTES // LARGEST  # so many packed bodies at a time, of which it is not known how large they are
# Milliseconds that acknowledgements wait for the next entry, so that they are on disk with it: a sync less an event.
_ACK_WAIT: Final = 50


class Entry(NamedTuple):
    """One entry as read. `event`: None when its fields are not those of an event of ours, for `problem`."""

    entry_id: str
    event: Event | None
    problem: str = ""


class InboxReader:
    """Reads events, for one dispatcher process. Every method raises redis.RedisError.

    `redis`: a client that leaves replies as bytes. `consumer`: the name of this process among the readers. `keys`: what
    entries must be signed with; None to check no signature.
    """

    def __init__(self, redis: redis.Redis, consumer: str, keys: EntryKeys | None = None) -> None:
        self._redis = redis
        self.consumer = consumer
        self._keys = keys
        self._announced = False
        self._finished: list[str] = []  # entries that are not acknowledged yet

    def ensure(self) -> None:
        """Make the stream and its group if Redis has none (it is new, or has lost everything).

        Tells receivers, once or when it has made them, that packed bodies are read here.
        """
        try:
            self._redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
            if self._announced:
                return
        with suppress(redis.OutOfMemoryError):
            self._redis.set(UNPACKS, 1)
            self._announced = True

    def read(self, count: int = 256, block_ms: int | None = None) -> list[Entry]:
        """Read up to `count` new entries, which are then pending for this consumer; [] if there are none.

        `block_ms`: wait so long for the first one (less than the client's socket timeout); None does not wait.
        """
        if self._finished and block_ms is not None and block_ms > _ACK_WAIT:
            if found := self.read(count, _ACK_WAIT):
                return found
            block_ms -= _ACK_WAIT
        try:
            reply = self._read(count, block_ms)
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self.ensure()
            reply = self._read(count, None)
        return self.entries(reply)

    def _read(self, count: int, block_ms: int | None) -> Any:
        pipeline: Any = self._redis.pipeline(transaction=False)
        blocks = block_ms is not None
        if blocks:  # a script can't wait; what it then adds must leave room for the one waited for
            pipeline.xreadgroup(GROUP, self.consumer, {STREAM: ">"}, count=1, block=block_ms)
        acknowledged = self._acknowledge(pipeline)
        pipeline.eval(READ, 1, STREAM, GROUP, self.consumer, count - blocks, READ_BYTES, _STEP)
        replies = pipeline.execute()
        del self._finished[:acknowledged]
        more = ((entry_id, dict(zip(it := iter(fields), it, strict=True))) for entry_id, fields in replies[-1])
        return [*(_only(replies[0]) if blocks and replies[0] else []), *more]

    def entries(self, reply: Iterable[Any]) -> list[Entry]:
        """Return the entries of a reply of Redis: pairs of their ids and fields."""
        return [self._entry(entry_id.decode(), fields) for entry_id, fields in reply]

    def _entry(self, entry_id: str, fields: Any) -> Entry:
        found = read_entry(fields, self._keys)
        return Entry(entry_id, None, found) if isinstance(found, str) else Entry(entry_id, found)

    def seal(self, message: bytes) -> bytes:
        """Return what shows that a process with the secrets of this one has written `message`; b"" without any."""
        return b"" if self._keys is None else self._keys.seal(message)

    def seals(self, message: bytes, seal: bytes) -> bool:
        """Return whether `seal` is that of `message`. Without secrets it is for all."""
        return self._keys is None or hmac.compare_digest(self._keys.seal(message), seal)

    def done(self, entry_ids: Sequence[str]) -> None:
        """Have entries acknowledged and deleted that the ledger has: with the next read, or by `flush`."""
        self._finished += entry_ids

    def flush(self, then: Iterable[tuple[Any, ...]] = ()) -> None:
        """Acknowledge and delete now what is done. `then`: commands of the same request, so that it is one fsync; a
        Redis that is full refuses them, and that is no error."""
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
            pipeline.eval(DONE, 1, STREAM, GROUP, *self._finished)
        return len(self._finished)

    def tidy(self, idle_ms: int = 3_600_000) -> int:
        """Remove readers without pending entries that were idle for `idle_ms`. Returns how many."""
        removed: Any = self._redis.eval(TIDY, 1, STREAM, GROUP, idle_ms)
        return int(removed)

    def ask_waiting(self, pipeline: Any) -> None:
        """Ask in `pipeline` how many entries the inbox has, those included that were read but not acknowledged."""
        pipeline.xlen(STREAM)


def _only(reply: Any) -> Any:
    """Return the entries of the one stream in a reply to XREADGROUP."""
    if isinstance(reply, dict):  # RESP3
        (batches,) = reply.values()
        return batches[0] if batches and isinstance(batches[0], list) else batches
    return reply[0][1]
