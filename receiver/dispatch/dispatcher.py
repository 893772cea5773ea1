"""Dispatch events from the inbox to the ledger: parse, deduplicate and route them, and create their deliveries.

A batch is recorded in one transaction, or in several if its bodies are large. Its entries leave the inbox after the
commit. So a dispatcher may be killed at any moment: the batch is read again, and recorded events are recognized by id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import redis

from receiver import wakeups
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.dispatch import recorder
from receiver.dispatch.decide import OF_VALUES
from receiver.dispatch.recorder import EventRecorder, Runner
from receiver.domain.frame import EntryKeys
from receiver.domain.liveness import DISPATCH, deliver
from receiver.inbox.reader import Entry, InboxReader
from receiver.inbox.recovery import KILLS, InboxRecovery, Taken
from receiver.inbox.set_aside import has_set_aside, put_back, set_aside
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.access import redis_losses
from receiver.runtime.outage import Pause
from receiver.runtime.redis_client import connect
from receiver.runtime.throttle import TokenBucket
from receiver.telemetry.logs import Fields

QUEUE = DISPATCH
BATCH = 256
# Bytes of bodies in one transaction (one event may be larger): a body takes ten times its size in memory while it is
# parsed, and all who write wait for a transaction.
CHUNK_BYTES = 4 << 20
# Seconds that a job waits for more before it ends, so that a steady trickle needs no new wake-up; and of one wait,
# after which it sees a stop.
IDLE_WAIT = 2.0
_TURN = 0.2
RECLAIM_EVERY = 4.0
# Maximum seconds of a job for entries that were set aside: new events must not wait for all of them.
PUT_BACK_FOR = 2.0

# Errors that an entry may cause: unexpected values, or more of them than fit in memory. Any other error, such as a
# ledger of a newer version, must not remove entries from the inbox.
_OF_ENTRY = (*OF_VALUES, MemoryError)

log = logging.getLogger("runhook.dispatch")


class Dispatcher:
    """The work of the dispatch jobs of one process."""

    def __init__(
        self,
        ledger: Ledger,
        recorder: EventRecorder,
        reader: InboxReader,
        connection: redis.Redis,
        put_back_for: float = PUT_BACK_FOR,
    ) -> None:
        """`put_back_for`: see PUT_BACK_FOR."""
        self._ledger = ledger
        self.recorder = recorder
        self._counter = recorder.counter
        self._reader = reader
        self._recovery = InboxRecovery(connection, reader)
        self._redis = connection
        self._pause = Pause(log, "dispatch")
        self._unfinished: list[Entry] = []  # read, but the ledger was unavailable
        self._cut_off = 0  # jobs since the last one that finished something
        self._reclaimed_at = 0.0
        self._lines = TokenBucket(rate=1, burst=20)
        self._put_back_for = put_back_for
        self._put_back_from = "-"  # of what was set aside, this process has looked at all before

    def run(self, stop: Callable[[], bool]) -> None:
        """Dispatch events until the inbox is quiet or `stop()`: the worker stops, or this job's time slice is over."""
        try:
            self._look_for_loss()
            self._take_all(stop)
            self._counter.flush()
            until = time.monotonic() + self._put_back_for
            self._put_back_from = put_back(self._redis, self._reader, self._put_back_from, until)
            wakeups.finish(self._redis, QUEUE, self._read_once_more)
        except (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError):
            raise  # which the loop around the jobs waits for
        except (LedgerUnavailable, redis.RedisError) as error:
            # What was read stays here; in a second the process looks into the inbox again.
            server = "ledger" if isinstance(error, LedgerUnavailable) else "redis"
            self._pause.wait(Fields(**{server: error}, kept=len(self._unfinished)), stop)
            self._redis.delete(wakeups.flag_key(QUEUE))
        except BaseException:  # such as a job's timeout
            self._cut_off += 1
            if self._cut_off > 1:  # they come back as those of a dead dispatcher do, at last alone
                self._unfinished = []
            raise

    def _look_for_loss(self) -> None:
        if self._ledger.read(lambda connection: redis_losses.is_older(connection, self._reader.read_at)):
            self.record_loss()

    def record_loss(self) -> None:
        """Record that Redis has lost its data, and log it. Raises LedgerUnavailable."""
        if self._ledger.write(redis_losses.record_loss):
            log.error("inbox.lost: Redis has lost its data: `runhook status` shows how to fetch what it held")

    def _take_all(self, stop: Callable[[], bool]) -> None:
        """Dispatch what the inbox holds, and what dead dispatchers had taken, until it is quiet or `stop()`. A Redis
        that is full allows all of this."""
        self._process(self._unfinished)
        more, quiet_since = True, time.monotonic()  # more of what is there already
        while not stop():
            recovered = self._recover_some()
            entries = self._reader.read(BATCH) if more or recovered else []
            if not (entries or recovered):
                entries = self._reader.read(BATCH, block_ms=int(_TURN * 1000))
            more = len(entries) > 1
            if entries:
                self._process(entries)
            if entries or recovered:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= IDLE_WAIT:
                break
        self._reader.flush()

    def _recover_some(self) -> bool:
        """Dispatch a few of the entries that others took and did not finish, and return whether there may be more."""
        if time.monotonic() - self._reclaimed_at <= RECLAIM_EVERY:
            return False
        taken = self._recovery.take()
        if taken is None:
            self._reclaimed_at = time.monotonic()
            return False
        self._take_again(taken)
        return True

    def _read_once_more(self) -> bool:
        """Dispatch what was added while the flag was still up, for which no wake-up was sent. It is done here and now:
        the next wake-up may go to another dispatcher."""
        entries = self._reader.read(BATCH)
        self._process(entries)
        self._reader.flush()
        return bool(entries)

    def has_new_set_aside(self, connection: redis.Redis) -> bool:
        """Return whether entries were set aside that this process has not looked at. For any thread, which brings its
        own connection. Raises redis.RedisError."""
        return has_set_aside(connection, self._put_back_from)

    def close(self) -> None:
        """Close the ledger and Redis, unless they belong to a process that closes them itself."""
        self._counter.flush()
        self._ledger.close()
        self._redis.close()

    def _process(self, entries: Sequence[Entry]) -> None:
        self._unfinished = list(entries)
        while self._unfinished:
            chunk = _chunk(self._unfinished)
            self._finish(chunk, self._record_chunk(chunk))
            self._unfinished = self._unfinished[len(chunk) :]

    def _record_chunk(self, chunk: Sequence[Entry]) -> Collection[str]:
        """Record the events of entries. Returns the sinks that have something to send."""
        self._set_aside([entry for entry in chunk if entry.event is None])
        found = [entry for entry in chunk if entry.event is not None]
        try:
            sinks = self.recorder.record(self.recorder.parse([it.event for it in found if it.event is not None]))
        except _OF_ENTRY as error:  # it must not hold up the rest of the inbox
            if len(found) > 1:
                return {sink for entry in found for sink in self._record_chunk([entry])}
            return self._record_unread(found[0], error)
        return sinks

    def _record_unread(self, entry: Entry, error: Exception) -> Collection[str]:
        """Record the event of an entry that can't be recorded as it is; set it aside when that fails as well."""
        assert entry.event is not None
        log.error("dispatch.failed event=%s", entry.event.id, exc_info=error)
        problem = f"it could not be recorded: {type(error).__name__}"
        try:
            return self.recorder.record([self.recorder.unread(entry.event, problem)])
        except _OF_ENTRY:
            self._set_aside([entry._replace(event=None, problem=problem)])
            return ()

    def _take_again(self, taken: Taken) -> None:
        """Dispatch what another dispatcher took and did not finish; one that may have killed it, alone."""
        if not taken.alone or any(entry.event is None for entry in taken.entries):
            self._process(taken.entries)
            return
        (entry,) = taken.entries
        assert entry.event is not None
        self._unfinished = [entry]
        recorder = self.recorder
        parsed = [recorder.unread(entry.event, KILLS)] if taken.raw else recorder.parse([entry.event])
        try:
            sinks: Collection[str] = recorder.record(parsed)
        except LedgerUnavailable:
            self._recovery.reset_delivery_count(taken)
            raise
        except _OF_ENTRY as error:
            sinks = self._record_unread(entry, error)
        self._finish([entry], sinks)
        self._reader.flush()
        self._unfinished = []

    def _finish(self, entries: Sequence[Entry], sinks: Collection[str]) -> None:
        self._pause.end()
        self._cut_off = 0
        self._reader.done([entry.entry_id for entry in entries])
        if sinks:  # their processes, when they get no wake-up since Redis is full, find it within a second
            self._reader.flush([wakeups.wake_command(deliver(sink)) for sink in sinks])

    def _set_aside(self, entries: Sequence[Entry]) -> None:
        """Set aside entries that this process cannot verify: any program with access to Redis can add one."""
        set_aside(self._redis, entries)
        for entry in entries:
            self._counter.add_set_aside()
            if self._lines.take(1, time.monotonic()):  # a stranger's entries must not fill the disk with lines
                log.error("inbox.set_aside entry=%s reason=%s", entry.entry_id, entry.problem)


def _chunk(entries: list[Entry]) -> list[Entry]:
    """Return the first entries, up to CHUNK_BYTES of bodies, and at least one."""
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.event.body) if entry.event is not None else 0
        if count and size > CHUNK_BYTES:
            return entries[:count]
    return entries


def build(
    settings: Settings,
    config: Config,
    owner: str,
    ledger: Ledger,
    runners: Mapping[str, Runner] = {},
) -> Dispatcher:
    """Build the dispatcher of a process called `owner`. It opens its connections on first use.

    `runners`: see EventRecorder.
    """
    # Its own connection, for its blocking reads.
    connection = connect(settings.redis_url, timeout=IDLE_WAIT + 5, connect_timeout=2.0, retries=1)
    keys = EntryKeys({name: source.signing_secrets for name, source in config.sources.items()})
    reader = InboxReader(connection, owner, keys)
    made = Dispatcher(ledger, recorder.build(settings, config, ledger, connection, runners), reader, connection)
    reader.on_missing = made.record_loss
    return made
