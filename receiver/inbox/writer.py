"""The writer of the inbox: what a receiver has acked is added to the stream. stream.py says what that is.

A commit is one transaction, so it is one fsync however many events it holds (without it, what reaches the server in
several reads costs an fsync for each), and all of it is there or none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import redis
import redis.asyncio

from receiver.domain.event import Event
from receiver.domain.inbox_entry import EntryKeys
from receiver.errors import RunhookError
from receiver.inbox.scripts import RENEW
from receiver.inbox.stream import STREAM, UNPACKS, spoilt, spoilt_as
from receiver.inbox.transaction import CommitReply, NotUnderstood, Transaction, read_reply
from receiver.runtime.lazy_timeout import LazyTimeout
from receiver.runtime.process import error_location
from receiver.runtime.redis_client import connect_async

# Seconds that a commit or a connect may take before Redis counts as away; where nobody waits for an answer, _PATIENCE.
TIMEOUT: Final = 0.5
_PATIENCE: Final = 5.0
# Bytes a second that even a slow way to Redis carries: a large commit gets that much more time.
SLOWEST: Final = 32 << 20

# Bytes of events that are packed in a thread: on the event loop they would hold up all requests.
_OFF_LOOP: Final = 256 << 10
# Milliseconds that the flag of a wake-up lasts at the most: one that lapses later, or never, is none of ours, and down.
_FLAG_LASTS: Final = 60_000

log = logging.getLogger("runhook.ingest")


class InboxUnavailable(RunhookError):
    """Redis did not confirm that it has the events. It may have them all the same: their ids show it.

    `refused`: Redis answered with an error.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Appended(NamedTuple):
    """`depth`: entries in the inbox now. `woken`: a wake-up of the dispatcher is outstanding; else one is needed.
    `size`: bytes that the bodies take up there."""

    depth: int
    woken: bool
    size: int


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
                    pieces, stored = await self._pack(events)
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

    async def _pack(self, events: Sequence[Event]) -> tuple[list[bytes], int]:
        if not self.packs or sum(len(event.body) for event in events if not event.packed) < _OFF_LOOP:
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
