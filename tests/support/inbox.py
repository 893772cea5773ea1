"""The inbox and the spool as tests read and fill them, and a worker of one queue."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from receiver.domain.event import Event, event_id
from receiver.domain.frame import FRAME, EntryKeys, read_frame
from receiver.domain.time_limits import JOB_TIMEOUT
from receiver.inbox import STREAM
from receiver.inbox.reader import Entry, InboxReader
from receiver.inbox.recovery import InboxRecovery
from receiver.inbox.writer import InboxWriter
from receiver.ingest.spool import Spool
from receiver.runtime.stop import StopRequests
from receiver.wakeups import worker
from tests.servers.receiver import ReceiverProcess
from tests.servers.valkey import ValkeyProcess
from tests.support.waiting import PATIENCE, eventually

KEYS = EntryKeys({"skyvern": ["secret"]})


def append(redis_url: str, *events: Event, keys: EntryKeys | None = None) -> None:
    """Write events to the inbox as a receiver with these keys does."""

    async def work() -> None:
        writer = InboxWriter(redis_url, timeout=30, keys=keys)  # a busy disk is not what these tests are about
        try:
            await writer.append(events)
        finally:
            await writer.close()

    asyncio.run(work())


def fill(redis_url: str, *bodies: bytes) -> None:
    """Write an event of each body to the inbox, signed with KEYS."""
    append(redis_url, *(Event(event_id("skyvern", each), "skyvern", each, 1700000000.5) for each in bodies), keys=KEYS)


def taken_again(client: redis.Redis, consumer: str, idle_ms: int = 0, count: int = 8) -> list[Entry]:
    """What a reader called `consumer` takes of what others left for `idle_ms`, up to `count`, at once."""
    taken = InboxRecovery(client, InboxReader(client, consumer)).take(idle_ms, idle_ms, count)
    return list(taken.entries) if taken else []


def ids_in_inbox(server: ValkeyProcess) -> list[str]:
    client = server.connect()
    try:
        entries: Any = client.xrange(STREAM)
        return [read_frame(fields[FRAME]).id for _, fields in entries]
    finally:
        client.close()


def ids_in_spool(receiver: ReceiverProcess) -> list[str]:
    """What a receiver that is gone left in its spool."""
    spool = Spool(receiver.data / "spool", 1 << 40, 0)
    spool.open()
    found = []
    while (batch := spool.peek()).events:
        found += [event.id for event in batch.events]
        spool.done(batch)
    spool.close()
    return found


def all_arrive(server: ValkeyProcess, acked: list[str]) -> None:
    """Each acked event gets into the inbox."""

    def arrived() -> bool:
        missing = set(acked) - set(ids_in_inbox(server))
        assert not missing, f"{len(missing)} of {len(acked)} are missing"
        return True

    eventually(arrived)


def event(number: int, size: int = 0) -> Event:
    body = (b"body %d" % number).ljust(size, b"x")
    return Event(event_id("skyvern", body), "skyvern", body, 1700000000.25 + number, submission_id=f"sub_{number}")


def events(start: int, stop: int) -> list[Event]:
    return [event(number) for number in range(start, stop)]


def open_spool(path: Path, max_bytes: int = 1 << 30, reserve_bytes: int = 0) -> Spool:
    spool = Spool(path / "spool", max_bytes, reserve_bytes)
    spool.open()
    return spool


QUEUE = "deliver:ops"


class Stop(StopRequests):
    """A stop that the work asks for."""

    def ask(self) -> None:
        self()


def serve_queue(
    url: str,
    work: Callable[[Stop], None],
    *,
    name: str = "w",
    seconds: float = PATIENCE,
    job_timeout: int = JOB_TIMEOUT,
) -> None:
    """Run a worker until its work asks it to stop; fail when it does not within `seconds`."""
    stop, late = Stop(), threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def give_up() -> None:
        late.set()
        stop.ask()
        signal.raise_signal(signal.SIGTERM)

    timer = threading.Timer(seconds, give_up)
    timer.start()
    try:
        worker.serve(QUEUE, url, name, lambda: work(stop), stop, job_timeout)
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not late.is_set(), f"the worker did not end within {seconds} s"


def queued(client: redis.Redis) -> int:
    return int(client.llen(f"rq:queue:{QUEUE}"))
