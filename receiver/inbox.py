"""The inbox: acked events that are not yet in the ledger, in a Redis stream. The only module that knows the stream.

A commit is one transaction, so it is one fsync however many events it holds (without it, what reaches the server in
several reads costs an fsync for each), and all of it is there or none.

    runhook:inbox           the stream: fields id, source, body, at (seconds since the epoch, as text), via, sub, mac;
                            where there is a size, the body is packed, and this its bytes unpacked
    group "dispatch"        its readers; an entry is acknowledged and deleted once the ledger has it
    runhook:inbox:unpacks   exists once a reader was there that reads packed bodies: no receiver writes them before

What is taken and not finished, because its dispatcher died, is inbox_recovery.py's; what is set aside inbox_aside.py's.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import redis
import redis.asyncio

from receiver.domain.event import Event
from receiver.domain.inbox_entry import UNSIGNED, EntryKeys, read_entry
from receiver.domain.packed_body import LARGEST
from receiver.errors import RunhookError
from receiver.inbox_commit import CommitReply, NotUnderstood, Transaction, read_reply
from receiver.inbox_scripts import DONE, READ, RENEW, TIDY
from receiver.runtime.lazy_timeout import LazyTimeout
from receiver.runtime.process import error_location
from receiver.runtime.redis_client import connect_async

STREAM: Final = "runhook:inbox"
GROUP: Final = "dispatch"
# What was set aside: see inbox_aside.py.
ASIDE: Final = "runhook:inbox:aside"
UNPROVEN_ASIDE: Final = f"{ASIDE}:unproven"
UNPACKS: Final = "runhook:inbox:unpacks"

# What is said when something else has written the inbox's key, and what mends it.
SPOILT: Final = (
    f"the key {STREAM} in Redis is no stream, so something else has written it: move it away "
    f"(RENAME {STREAM} {STREAM}.wrong), and events go on by themselves"
)

# Seconds that a commit or a connect may take before Redis counts as away; where nobody waits for an answer, _PATIENCE.
TIMEOUT: Final = 0.5
_PATIENCE: Final = 5.0
# Bytes a second that even a slow way to Redis carries: a large commit gets that much more time.
SLOWEST: Final = 32 << 20

# Bytes after which a read takes no more entries: 256 bodies of 16 MiB would fill the memory of a small machine.
READ_BYTES: Final = 16 << 20
_STEP: Final = READ_BYTES // LARGEST  # so many packed bodies at a time, of which it is not known how large they are
# Bytes of events that are packed in a thread: on the event loop they would hold up all requests.
_OFF_LOOP: Final = 256 << 10
# Milliseconds that acknowledgements wait for the next entry, so that they are on disk with it: a sync less an event.
_ACK_WAIT: Final = 50
# Milliseconds that the flag of a wake-up lasts at the most: one that lapses later, or never, is none of ours, and down.
_FLAG_LASTS: Final = 60_000

log = logging.getLogger("runhook.ingest")


def spoilt(error: BaseException | str) -> str:
    """Return SPOILT when `error` is Redis's answer that the inbox's key is no stream; "" for all other errors."""
    return SPOILT if isinstance(error, redis.ResponseError | str) and str(error).startswith("WRONGTYPE") else ""


def spoilt_as(kind: bytes | str) -> str:
    """Return SPOILT when the inbox's key is neither a stream nor free, by its TYPE; else ""."""
    return "" if kind in (b"stream", b"none") else SPOILT


class InboxUnavailable(RunhookError):
    """Redis did not confirm that it has the events. It may have them all the same: their ids show it.

    `refused`: Redis answered with an error.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Appended:
    """`depth`: entries in the inbox now. `woken`: a wake-up of the dispatcher is outstanding; else one is needed.
    `size`: bytes that the bodies take up there."""

    depth: int
    woken: bool
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as read. `event`: None when its fields are not those of an event of ours, for `problem`."""

    entry_id: str
    event: Event | None
    problem: str = ""


class Signing(Protocol):
    """A source of the config, as far as the inbox needs it."""

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """All secrets that it signs with."""


class InboxWriter:
    """Adds events, for one event loop. One commit at a time; the caller sees to that.

    `timeout`: seconds that a connect, or a commit of an ordinary size, may take. `client`: for what is no commit.
    `lazy`: connect when it is needed; otherwise only `connect` does, so that its caller can examine the server first.
    `wake_flag`: the key that exists while a wake-up of the dispatcher is outstanding; by default one that then exists,
    for callers that wake nobody. `keys`: what entries are signed with. `packs`, which may change: bodies are packed,
    since all readers can read them.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        timeout: float = TIMEOUT,
        lazy: bool = True,
        wake_flag: str = STREAM,
        keys: EntryKeys | None = None,
    ) -> None:
        self._timeout = timeout
        self._keys = keys or EntryKeys({})
        self._lazy = lazy
        self.packs = False
        self._packing = ThreadPoolExecutor(1, thread_name_prefix="pack")
        self._transaction = Transaction(STREAM, wake_flag)
        self._wakes = wake_flag != STREAM
        commits = connect_async(redis_url, timeout=None, connect_timeout=timeout, retries=0)
        self._pool: Any = commits.connection_pool
        self._connection: Any = None
        self._limit = LazyTimeout()
        self._committing = asyncio.Lock()  # `connect` waits for a commit under way, which may have reached Redis
        self.client = connect_async(redis_url, timeout=timeout, connect_timeout=timeout, retries=0)

    async def append(self, events: Sequence[Event]) -> Appended:
        """Add `events`, in order. On return they are as safe as Redis makes a write before it answers.

        Raises InboxUnavailable.
        """
        size = sum(len(event.body) for event in events)
        connection = None
        try:
            async with self._committing:
                with self._limit(self._timeout + size / SLOWEST):
                    connection = await self._connected()
                    pieces, stored = await self._pack(events, size)
                    reply = await self._send(connection, pieces, len(events))
                    if "exhausted" in reply.error:
                        await self.client.eval(RENEW, 1, STREAM)  # unless another commit has done so in the meantime
                        reply = await self._send(connection, pieces, len(events))
        except Exception as error:  # noqa: BLE001 - whatever it was, the events must go elsewhere
            await self._drop(connection)
            if not isinstance(error, (TimeoutError, redis.RedisError, OSError, NotUnderstood)):
                log.error("inbox.bug error=%r", error_location(error))
            raise InboxUnavailable(_short(error)) from None
        except BaseException:
            await self._drop(connection)
            raise
        if reply.error:
            raise InboxUnavailable(spoilt(reply.error) or reply.error[:200], refused=True)
        return Appended(reply.depth, not self._wakes or 0 < reply.lapses <= _FLAG_LASTS, stored)

    async def _pack(self, events: Sequence[Event], size: int) -> tuple[list[bytes], int]:
        if not self.packs or size < _OFF_LOOP:
            return self._transaction.pack(events, self._keys, packed=self.packs)
        packing = partial(self._transaction.pack, events, self._keys, packed=True)
        return await asyncio.get_running_loop().run_in_executor(self._packing, packing)

    async def _send(self, connection: Any, pieces: Sequence[bytes], events: int) -> CommitReply:
        await connection.send_packed_command(pieces, check_health=False)
        data = b""
        while True:
            data += await connection.read_bytes()
            reply = read_reply(data, events)
            if reply is not None:
                return reply

    async def _connected(self) -> Any:
        if self._connection is None:
            if not self._lazy:
                raise redis.ConnectionError("not connected")
            await self._connect()
        return self._connection

    async def connect(self) -> None:
        """Make new connections: for commits, and for all else when it is needed. Raises redis.RedisError, OSError."""
        async with self._committing:
            await self._connect()

    async def _connect(self) -> None:
        await self._drop(self._connection)
        await self.client.connection_pool.disconnect(inuse_connections=False)  # what broke one has broken them all
        made = self._pool.make_connection()
        try:
            await made.connect()
        except BaseException:
            await made.disconnect(nowait=True)
            raise
        self._connection = made

    async def spoilt(self) -> str:
        """Return SPOILT when the inbox's key is neither a stream nor free, else "". Raises redis.RedisError."""
        return spoilt_as(await self.client.type(STREAM))

    async def readers_unpack(self) -> bool:
        """Return whether a reader of this inbox has said that it reads packed bodies. Raises redis.RedisError."""
        return bool(await self.client.exists(UNPACKS))

    async def depth(self) -> tuple[int, int]:
        """Return (entries, about how many bytes) in the inbox. Raises InboxUnavailable."""
        try:
            async with asyncio.timeout(self._timeout):
                entries = int(await self.client.xlen(STREAM))
                if not entries:
                    return 0, 0
                with suppress(redis.ResponseError):  # it may be forbidden
                    return entries, int(await self.client.memory_usage(STREAM) or 0)
                return entries, 0
        except (TimeoutError, redis.RedisError, OSError) as error:
            raise InboxUnavailable(_short(error)) from None

    async def _drop(self, connection: Any) -> None:
        """Close a connection. `connect` may have made another one meanwhile, which stays."""
        if self._connection is connection:
            self._connection = None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close all connections."""
        self._packing.shutdown(wait=False)
        self._limit.close()
        await self._drop(self._connection)
        await self.client.aclose()


def _short(error: BaseException) -> str:
    """Return an error of redis-py as one short line. It holds no payload and no password of a URL."""
    text = str(error).splitlines()[0] if str(error) else ""
    return text[:200] or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


async def append_each(
    redis_url: str, sources: Mapping[str, Signing], events: Iterable[Event], taken: Callable[[int], None]
) -> None:
    """Append events one by one, as a command does that lets back in what was kept elsewhere. The clock wakes for them.

    `sources`: those that sign entries, by name. `taken`: called with the number of each, from 0, once it is there.
    Raises InboxUnavailable.
    """
    keys = EntryKeys({name: source.signing_secrets for name, source in sources.items()})
    writer = InboxWriter(redis_url, timeout=_PATIENCE, keys=keys)
    try:
        for number, event in enumerate(events):
            await writer.append([event])
            taken(number)
    finally:
        await writer.close()


class InboxReader:
    """Reads events, for one dispatcher process. Every method raises redis.RedisError.

    `redis`: a client that leaves replies as bytes. `consumer`: the name of this process among the readers. `keys`: what
    entries must be signed with; None to check no signature. `unsigned`: whether those without one are let in now.
    """

    def __init__(
        self,
        redis: redis.Redis,
        consumer: str,
        keys: EntryKeys | None = None,
        unsigned: Callable[[], bool] = lambda: False,
    ) -> None:
        self._redis = redis
        self.consumer = consumer
        self._keys = keys
        self._unsigned = unsigned
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
        if found == UNSIGNED and self._unsigned():
            found = read_entry(fields, self._keys, unsigned=True)
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
