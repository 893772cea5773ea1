"""The writer of the inbox: adds what a receiver has accepted to the stream. stream.py describes the stream.

A commit is one script, so it is one fsync, however many events it holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import redis
import redis.asyncio

from receiver.domain.event import Event
from receiver.domain.frame import FRAME, MACS, EntryKeys, head_of
from receiver.errors import RunhookError, error_location
from receiver.inbox import ASIDE, STREAM, depth_of
from receiver.runtime.redis_client import connect_async

# Seconds that a commit or a connect may take before Redis counts as unavailable; _PATIENCE where no response waits.
TIMEOUT: Final = 0.5
_PATIENCE: Final = 5.0
# Bytes a second that even a slow network carries: a large commit gets that much more time.
SLOWEST: Final = 32 << 20
# Milliseconds that the flag of a wake-up lasts at most. A flag that expires later, or never, was not set by Runhook.
_FLAG_LASTS: Final = 60_000

# KEYS: stream, flag of the dispatcher's wake-up. ARGV: frame and MACs of each event. Returns the entries in the stream,
# and the milliseconds that the flag has left.
_APPEND: Final = f"""
for i = 1, #ARGV, 2 do
  redis.call('XADD', KEYS[1], '*', '{FRAME.decode()}', ARGV[i], '{MACS.decode()}', ARGV[i + 1])
end
return {{redis.call('XLEN', KEYS[1]), redis.call('PTTL', KEYS[2])}}
"""

log = logging.getLogger("runhook.ingest")


class InboxUnavailable(RunhookError):
    """Redis did not confirm that it has the events. It may still have them: their ids show it.

    `refused`: Redis replied with an error.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Appended(NamedTuple):
    """`depth`: entries in the inbox now. `woken`: a wake-up of the dispatcher is outstanding; else one is needed."""

    depth: int
    woken: bool


class InboxWriter:
    """Adds events, for one event loop.

    `wake_flag`: the key that exists while a wake-up of the dispatcher is outstanding; the default is for callers that
    wake no dispatcher. `keys`: what entries are signed with.
    """

    def __init__(
        self, redis_url: str, *, timeout: float = TIMEOUT, wake_flag: str = STREAM, keys: EntryKeys | None = None
    ) -> None:
        self._timeout = timeout
        self._keys = keys or EntryKeys({})
        self._wakes = wake_flag != STREAM
        self.client = connect_async(
            redis_url, timeout=None, connect_timeout=timeout, retries=0, on_connect=self._note_connect
        )
        self._append = self.client.register_script(_APPEND)
        self._places = [STREAM, wake_flag]
        # Whether a connection was made since this was last set to False: another server may answer on it.
        self.connected_anew = False

    def _note_connect(self) -> None:
        self.connected_anew = True

    async def append(self, events: Sequence[Event], *, within: float | None = None) -> Appended:
        """Add `events`, in order. On return they are as safe as Redis makes a write before it replies.

        `within`: seconds, if not those of the writer. Raises InboxUnavailable.
        """
        arguments: list[bytes] = []
        size = 0
        for event in events:
            head = head_of(event)
            arguments += (head + b"\n" + event.body, self._keys.macs(event.source, head))
            size += len(event.body)
        try:
            async with asyncio.timeout((within or self._timeout) + size / SLOWEST):
                depth, expires = await self._append(keys=self._places, args=arguments)
        except redis.ResponseError as error:
            raise InboxUnavailable(_short(error), refused=True) from None
        except Exception as error:  # noqa: BLE001 - after any error the events must go elsewhere
            await self.disconnect()
            if not isinstance(error, (TimeoutError, redis.RedisError, OSError)):
                log.error("inbox.bug error=%r", error_location(error))
            raise InboxUnavailable(_short(error)) from None
        return Appended(depth, not self._wakes or 0 < expires <= _FLAG_LASTS)

    async def depth(self) -> tuple[int, int]:
        """Return (entries, about how many bytes) in the inbox, see `depth_of`. Raises InboxUnavailable."""
        pipeline: Any = self.client.pipeline(transaction=False)
        pipeline.xlen(STREAM)
        for key in (STREAM, ASIDE):
            pipeline.memory_usage(key)
        try:
            async with asyncio.timeout(self._timeout):
                return depth_of(*await pipeline.execute(raise_on_error=False))
        except (TimeoutError, redis.RedisError, OSError) as error:
            raise InboxUnavailable(_short(error)) from None

    async def disconnect(self) -> None:
        """Close idle connections: what broke one has broken them all."""
        with suppress(redis.RedisError, OSError):
            await self.client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()


def _short(error: BaseException) -> str:
    """Return an error of redis-py as one short line. It holds no payload and no password of a URL."""
    text = str(error).splitlines()[0] if str(error) else ""
    return text[:200] or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


async def append_each(
    redis_url: str, sources: Mapping[str, Any], events: Iterable[Event], taken: Callable[[int], None]
) -> None:
    """Append events one by one, for a command that puts back what was kept elsewhere.

    A worker finds them within a second. `sources`: those of the config, for their secrets. `taken`: called with the
    number of each, from 0, when it is in. Raises InboxUnavailable.
    """
    keys = EntryKeys({name: source.signing_secrets for name, source in sources.items()})
    writer = InboxWriter(redis_url, timeout=_PATIENCE, keys=keys)
    try:
        for number, event in enumerate(events):
            await writer.append([event])
            taken(number)
    finally:
        await writer.close()
