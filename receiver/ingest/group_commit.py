"""Group commit: `commit` is done when an event is on disk, in Redis or in the spool. Knows no HTTP.

One commit is under way at a time; events that arrive meanwhile form the next one. When Redis fails once, the commit's
events go straight to the spool, and so does everything after it, until an examination in the background has succeeded;
the same while the inbox is over its limits. The spool is drained while Redis takes events.

A refusal is always Busy: Runhook's own trouble, after which the sender tries again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

import redis

from receiver import wakeups
from receiver.domain.event import Event
from receiver.domain.frame import EntryKeys
from receiver.domain.liveness import DISPATCH
from receiver.errors import Busy, error_location
from receiver.inbox.writer import InboxUnavailable, InboxWriter
from receiver.ingest import redis_settings
from receiver.ingest.redis_settings import Durability
from receiver.ingest.spool import Spool, SpoolFull, spool_trouble
from receiver.runtime.background import Background
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.receiver import ReceiverMetrics

# Most events and bytes of one commit (one event may be larger): more gains nothing and takes longer.
COMMIT_EVENTS: Final = 512
COMMIT_BYTES: Final = 4 << 20
RELEASE: Final = 0.9  # share of its limits at which an inbox that was over them takes events again
FULL_RETRY_AFTER: Final = 30
DRAIN_TIMEOUT: Final = 5.0
CLOSE_TIMEOUT: Final = 2.0  # seconds that `close` waits for what is in flight, and then for the spool; both take less
log = logging.getLogger("runhook.ingest")

T = TypeVar("T")


class Limits(NamedTuple):
    """Limits of ingest. `max_events`, `max_bytes`: of the inbox. `max_body`: bytes of the largest event.

    `accept_weaker`: use a Redis that does not write to disk before it answers. `shares_disk`: Redis is the embedded
    one, on the spool's disk.
    """

    max_events: int
    max_bytes: int
    max_body: int = 0
    accept_weaker: bool = False
    shares_disk: bool = False


class Pace(NamedTuple):
    """Seconds between two looks at Redis and the disk. `quiet`: added while nothing comes and nothing waits.

    `examine`: between two examinations of a Redis in use. `distrust`: until one that refuses commits, and nothing else,
    is tried again.
    """

    watch: float = 0.5
    quiet: float = 4.5
    examine: float = 30.0
    distrust: float = 5.0


class GroupCommit:
    """Group commit for one event loop: `start`, then `commit` events, then `close`.

    A wake-up of the dispatcher that fails changes nothing, since each worker looks into the inbox once a second.
    `keys`: what the entries of the inbox are signed with. The spool's events are signed when they are moved to it.
    """

    def __init__(
        self,
        redis_url: str,
        spool: Spool,
        limits: Limits,
        metrics: ReceiverMetrics,
        keys: EntryKeys | None = None,
        background: Background | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._background = background or Background()
        self.pace = pace or Pace()
        self._redis_url = redis_url
        flag = wakeups.flag_key(DISPATCH)
        self._writer = InboxWriter(redis_url, wake_flag=flag, keys=keys)
        self._spool = spool
        self._limits = limits
        self._metrics = metrics
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._waiting: deque[tuple[Event, asyncio.Future[None]]] = deque()
        self._arrived = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._examining = asyncio.Lock()
        self._examine_at = 0.0  # when Redis is to be examined next, by time.monotonic()
        self._closing = False
        self._redis_up = False
        self._over = False
        self._disk_low = False
        self._moved = 0  # events of the spool since it was empty
        self._depth = (0, 0)
        self._log_lines = TokenBucket(rate=0.2, burst=5)
        # Of the Redis in use; None before one was reached.
        self.durability: Durability | None = None
        # Why Redis is not used now, or "", and the log event that reported it.
        self.trouble = ""
        self._reported = ""
        self.down_since: float | None = None  # since when there is `trouble`

    async def start(self) -> None:
        """Open the spool, and try Redis once. Raises NotStarted when the spool can't be used."""
        await self._on_disk(self._spool.open)
        with suppress(OSError):
            self._disk_low = await self._on_disk(self._spool.free) < 0
        await self._examine()
        for name, body in (("commit", self._commit_all), ("redis", self._watch_redis), ("disk", self._watch_disk)):
            self._tasks[name] = self._background.keep(f"ingest.{name}", body)

    def commit(self, event: Event) -> asyncio.Future[None]:
        """Commit `event`. The future is done when it is on disk, and raises Busy when it could not be kept."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, future))
        self._arrived.set()
        return future

    @property
    def store(self) -> str:
        """Where events go now: "redis" or "spool"."""
        return "redis" if self._redis_up and not self._over else "spool"

    @property
    def refusing(self) -> str:
        """Why events get 503 now, or ""."""
        full = self._disk_low and (self._limits.shares_disk or self.store == "spool")
        return "free disk space is under spool.reserve_bytes" if full else ""

    async def ready(self) -> str:
        """Make a durable write where events go now, and return the name of that store. Raises Busy."""
        if self._limits.shares_disk and self.refusing:
            raise Busy(self.refusing, retry_after=FULL_RETRY_AFTER)
        if self.store == "redis":
            try:
                if await self._examine():
                    return "redis"
            except Exception as error:  # noqa: BLE001 - the spool takes events after any error
                self._away("redis_away", error_location(error))
        try:
            await self._on_disk(self._spool.check)
        except (SpoolFull, OSError) as error:
            raise Busy(spool_trouble(error), retry_after=FULL_RETRY_AFTER) from None
        return "spool"

    async def close(self) -> None:
        """Finish the commits under way, then close everything. A spool whose disk hangs stays open."""
        self._closing = True
        self._arrived.set()
        finishing = [task for name, task in self._tasks.items() if name in ("commit", "wake")]
        await asyncio.wait(finishing, timeout=CLOSE_TIMEOUT)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        left, size, directory = self._spool.events, self._spool.bytes, self._spool.directory
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._on_disk(self._spool.close)
        except TimeoutError:
            log.error(
                "ingest.disk_hangs directory=%s: the receiver stops without closing its spool; the next one on this "
                "data directory takes in what is there",
                directory,
            )
        self._disk.shutdown(wait=False)
        if left:
            log.warning(
                "ingest.stopped_with_spool events=%d bytes=%d directory=%s: acked, and on this disk alone; a receiver "
                "that starts on this data directory sends them to Redis, and so does `runhook spool send`",
                *(left, size, directory),
            )
        await self._writer.close()

    # --- commits ---------------------------------------------------------------------------------------------------

    async def _commit_all(self) -> None:
        while self._waiting or not self._closing:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(0)  # events that arrived at the same moment come along
                continue
            batch = self._next_batch()
            busy: Busy | None = Busy("the event could not be kept")
            try:
                await self._commit([event for event, _ in batch])
                busy = None
            except Busy as refusal:
                busy = refusal
            except Exception as error:  # noqa: BLE001 - the requests that wait must get a response
                log.error("ingest.bug task=commit error=%r", error_location(error))
            finally:
                for _, future in batch:
                    if future.done():  # its request was cancelled
                        continue
                    if busy is None:
                        future.set_result(None)
                    else:
                        future.set_exception(busy)

    def _next_batch(self) -> list[tuple[Event, asyncio.Future[None]]]:
        """Take the events of the next commit, in the order in which they came."""
        batch = [self._waiting.popleft()]
        size = len(batch[0][0].body)
        while self._waiting and len(batch) < COMMIT_EVENTS:
            size += len(self._waiting[0][0].body)
            if size > COMMIT_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _commit(self, events: Sequence[Event]) -> None:
        """Write `events` to disk. Raises Busy when no store takes them."""
        if self._disk_low and self._limits.shares_disk:
            # An embedded Valkey would exit on a full disk: better to stop before that.
            raise Busy("free disk space is under spool.reserve_bytes", retry_after=FULL_RETRY_AFTER)
        started = time.perf_counter()
        if self._redis_up and not self._over:
            try:
                await self._append(events)
            except InboxUnavailable as error:
                self._commit_failed(error)
            else:
                self._metrics.commit("redis", len(events), time.perf_counter() - started)
                return
        try:
            await self._on_disk(self._spool.append, events)
        except (SpoolFull, OSError) as error:
            if self._log_lines.take(1, time.monotonic()):
                log.error("ingest.not_kept events=%d reason=%s", len(events), spool_trouble(error))
            raise Busy(spool_trouble(error), retry_after=FULL_RETRY_AFTER) from None
        self._metrics.commit("spool", len(events), time.perf_counter() - started)

    async def _append(self, events: Sequence[Event], within: float | None = None) -> None:
        """Add `events` to the inbox. Raises InboxUnavailable, also for a new server that must not be used."""
        appended = await self._writer.append(events, within=within)
        if self._writer.connected_anew and not await self._examine():
            raise InboxUnavailable(self.trouble)
        self._note_depth(appended.depth, self._depth[1] + sum(len(event.body) for event in events))
        if not appended.woken and not self._closing:
            self._tasks["wake"] = self._background.keep("ingest.wake", self._wake_up)

    def _note_depth(self, events: int, size: int) -> None:
        """Record the inbox's depth. Over its limits, events go to the spool until it is well below them."""
        self._depth = (events, size)
        self._metrics.inbox_events, self._metrics.inbox_bytes = events, size
        share = RELEASE if self._over else 1.0
        over = events >= self._limits.max_events * share or size >= self._limits.max_bytes * share
        if over != self._over:
            self._over = over
            if over:
                log.warning("ingest.inbox_full events=%d bytes=%d: %s", events, size, self._fallback)
            else:
                log.warning("ingest.inbox_has_room events=%d bytes=%d", events, size)

    async def _wake_up(self) -> None:
        with suppress(redis.RedisError, OSError, TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT):
                client: Any = self._writer.client  # its commands are untyped
                await client.execute_command(*wakeups.wake_command(DISPATCH))

    # --- Redis: away and back --------------------------------------------------------------------------------------

    @property
    def _fallback(self) -> str:
        """What happens to events while Redis does not take them."""
        if self._disk_low:
            return "the response is 503, for free disk space is under spool.reserve_bytes"
        return "events go to the spool"

    def _commit_failed(self, error: InboxUnavailable) -> None:
        # A Redis that refuses a commit may still pass an examination, and refuse the next commit.
        self._away("redis_away", str(error), self.pace.distrust if error.refused else 0.0)

    def _away(self, what: str, reason: str, pause: float = 0.0) -> None:
        """Stop using Redis until it passes an examination, the first one after `pause` seconds.

        `what`: the event of the log, written once.
        """
        if what != self._reported:
            log.error("ingest.%s reason=%s: %s", what, reason, self._fallback)
        self._redis_up = self._metrics.redis_up = False
        self.trouble, self._reported, self.down_since = reason, what, self.down_since or time.time()
        self._examine_at = time.monotonic() + pause
        self._arrived.set()  # ends a long pause

    async def _examine(self) -> bool:
        """Make a write in Redis, read the inbox's depth, and examine Redis's durability. False when Redis can't or must
        not be used."""
        async with self._examining:  # two at once would reset each other's connections
            try:
                async with asyncio.timeout(1.0 if self._redis_up else 2.0):  # to connect takes many round trips
                    if not self._redis_up:
                        await self._writer.disconnect()
                    self._writer.connected_anew = False
                    found = await redis_settings.examine(self._writer.client, self._limits.max_body)
                    await self._writer.depth()
            except (redis.RedisError, OSError, TimeoutError, InboxUnavailable) as error:
                self._away("redis_away", str(error)[:200] or type(error).__name__)
                return False
            usable = found.strong or self._limits.accept_weaker
            if not usable:
                self._away("redis_unusable", redis_settings.explain(self._redis_url, found))
            elif not found.strong and found != self.durability:
                log.warning("ingest.weaker_durability accepted: %s", found)
            self.durability = found
            if usable:
                if self.trouble:
                    log.warning("ingest.redis_back: events go to Redis")
                self._redis_up = self._metrics.redis_up = True
                self.trouble, self._reported, self.down_since = "", "", None
                self._writer.connected_anew = False
                self._examine_at = time.monotonic() + self.pace.examine
            return usable

    # --- the background --------------------------------------------------------------------------------------------

    async def _watch_redis(self) -> None:
        while not self._closing:  # a cancel that comes in the middle of a call to Redis can be lost there
            await self._pause()
            try:
                if self._redis_up:
                    self._note_depth(*await self._writer.depth())
                if time.monotonic() >= self._examine_at:
                    await self._examine()
            except InboxUnavailable as error:
                self._commit_failed(error)

    async def _watch_disk(self) -> None:
        while not self._closing:
            drained = False
            try:
                self._disk_low = await self._on_disk(self._spool.free) < 0
                await self._on_disk(self._spool.count)
                if self._spool.events and self._redis_up and not self._over:
                    drained = await self._drain()
            except OSError as error:
                log.error("ingest.watch reason=%s", spool_trouble(error))
            self._metrics.spool_events, self._metrics.spool_bytes = self._spool.events, self._spool.bytes
            if not drained:
                await self._pause()

    async def _drain(self) -> bool:
        """Move the oldest events of the spool to Redis. False when it does not take them. Raises OSError."""
        batch = await self._on_disk(self._spool.peek)
        try:
            await self._append(batch.events, DRAIN_TIMEOUT)
        except InboxUnavailable as error:
            if self._log_lines.take(1, time.monotonic()):
                log.warning("ingest.drain_paused reason=%s", error)
            if not error.refused:
                self._commit_failed(error)
            return False
        await self._on_disk(self._spool.done, batch)
        self._metrics.drained += len(batch.events)
        self._moved += len(batch.events)
        if not self._spool.events:
            log.info("ingest.spool_drained events=%d", self._moved)
            self._moved = 0
        return True

    async def _pause(self) -> None:
        if self._redis_up and not self._depth[0] and not self._spool.events:
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), self.pace.quiet)
        await asyncio.sleep(self.pace.watch)

    async def _on_disk(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, call, *arguments)
