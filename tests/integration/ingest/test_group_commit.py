"""The group_commit by itself, where no request can show what it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis.commands.core import AsyncScript

from receiver.domain.event import Event
from receiver.domain.frame import EntryKeys
from receiver.errors import Busy
from receiver.inbox import STREAM
from receiver.inbox.reader import InboxReader
from receiver.inbox.set_aside import drop_all, set_aside
from receiver.inbox.state import examine
from receiver.inbox.writer import Appended, InboxWriter
from receiver.ingest.group_commit import COMMIT_BYTES, COMMIT_EVENTS, GroupCommit, Limits, Pace
from receiver.ingest.spool import Spool
from receiver.telemetry.receiver import ReceiverMetrics
from tests.servers.gate import Gate
from tests.servers.valkey import ValkeyProcess
from tests.support.events import event
from tests.support.inbox import append, ids_in_inbox
from tests.support.waiting import PATIENCE, eventually

LIMITS = Limits(100, 1 << 20)


@asynccontextmanager
async def started(
    redis_url: str,
    tmp_path: Path,
    *,
    limits: Limits = LIMITS,
    pace: Pace | None = None,
    metrics: ReceiverMetrics | None = None,
) -> AsyncIterator[GroupCommit]:
    spool = Spool(tmp_path / "spool", 1 << 20, 0)
    it = GroupCommit(redis_url, spool, limits, metrics or ReceiverMetrics(), pace=pace)
    await it.start()
    try:
        yield it
    finally:
        await it.close()


async def becomes(check: Callable[[], Any]) -> None:
    """Wait for a state while the event loop goes on."""
    await asyncio.to_thread(eventually, check)


async def test_stop_does_not_wait_for_a_lost_cancellation(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", 1 << 20, 0)
    group_commit = GroupCommit(redis_url, spool, LIMITS, ReceiverMetrics(), pace=Pace(watch=0.0, quiet=0.0))
    asked = asyncio.Event()

    async def depth(_: InboxWriter) -> tuple[int, int]:
        asked.set()
        with suppress(asyncio.CancelledError):  # as a client does that takes it for the end of its own time-out
            await asyncio.sleep(3600)
        return 0, 0

    monkeypatch.setattr(InboxWriter, "depth", depth)
    await group_commit.start()
    await asyncio.wait_for(asked.wait(), PATIENCE)

    await asyncio.wait_for(group_commit.close(), PATIENCE)


# Without the look at Redis twice a second, which would notice by itself.
UNWATCHED = Pace(watch=3600)


async def test_events_that_wait_share_the_next_commit(
    valkey_factory: Callable[..., ValkeyProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    append = InboxWriter.append

    async def noted(writer: InboxWriter, events: Sequence[Event], **options: Any) -> Appended:
        commits.append(len(events))
        return await append(writer, events, **options)

    monkeypatch.setattr(InboxWriter, "append", noted)
    server = valkey_factory()
    metrics = ReceiverMetrics()
    async with started(server.url, tmp_path, pace=UNWATCHED, metrics=metrics) as it:
        # Given a Redis that answers nothing, when an event comes, and four more while its commit is under way
        server.hang()
        kept = []
        for many in (1, 1, 3):
            kept += [it.commit(event(b"%d %d" % (number, many))) for number in range(many)]
            for _ in range(10):
                await asyncio.sleep(0)
        assert commits == [1]
        # Then all are in the spool when it dies
        server.kill()
        await asyncio.gather(*kept)
        assert metrics.events["spool"] == 5


async def test_a_commit_is_bounded_in_number_and_bytes_but_never_empty(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    async def noted(_: InboxWriter, events: Sequence[Event], **__: Any) -> Appended:
        sizes.append(len(events))
        return Appended(0, woken=True)

    monkeypatch.setattr(InboxWriter, "append", noted)
    async with started(redis_url, tmp_path, limits=Limits(10_000, 1 << 30)) as it:
        large = [each * (2 * COMMIT_BYTES // 5) for each in (b"y", b"z", b"w")]
        bodies = [*(b"%d" % number for number in range(COMMIT_EVENTS + 2)), b"x" * (2 * COMMIT_BYTES), *large]
        await asyncio.gather(*(it.commit(event(each)) for each in bodies))
    assert sizes == [COMMIT_EVENTS, 2, 1, 2, 1]


async def test_new_server_behind_the_address_is_examined_first(
    valkey_factory: Callable[..., ValkeyProcess], tmp_path: Path
) -> None:
    server = valkey_factory()
    metrics = ReceiverMetrics()
    async with started(server.url, tmp_path, pace=UNWATCHED, metrics=metrics) as it:
        await it.commit(event(b"first"))
        # Given a Redis that was replaced, between two commits, by one that keeps events in memory only
        client = server.connect()
        client.config_set("appendfsync", "no")
        client.client_kill_filter(_type="normal", skipme=True)
        client.close()
        # When the next events come, then they are in the spool
        await it.commit(event(b"second"))
        await it.commit(event(b"third"))
        assert (it.store, metrics.events["spool"]) == ("spool", 2)


async def test_redis_made_weaker_in_use_gets_no_more_events(
    valkey_factory: Callable[..., ValkeyProcess], tmp_path: Path
) -> None:
    server = valkey_factory()
    client = server.connect()
    first, second = event(b"first"), event(b"second")
    async with started(server.url, tmp_path, pace=Pace(watch=0.02, quiet=0.0, examine=0.05)) as it:
        await it.commit(first)
        assert it.store == "redis"
        # When somebody changes its settings
        client.config_set("appendfsync", "everysec")
        # Then it is noticed, and events go to the spool
        await becomes(lambda: it.store == "spool")
        assert "appendfsync is everysec" in it.trouble
        await it.commit(second)
        assert ids_in_inbox(server) == [first.id]
        # And to Redis again once the settings are right
        client.config_set("appendfsync", "always")
        await becomes(lambda: ids_in_inbox(server) == [first.id, second.id])
        assert (it.store, it.trouble) == ("redis", "")
    client.close()


async def test_to_be_ready_means_that_a_write_went_through_just_now(
    valkey_factory: Callable[..., ValkeyProcess], tmp_path: Path
) -> None:
    server = valkey_factory()
    async with started(server.url, tmp_path, pace=UNWATCHED) as it:
        assert await it.ready() == "redis"
        server.kill()
        assert await it.ready() == "spool"
        assert it.store == "spool"


async def test_full_inbox_takes_events_again_below_nine_tenths(
    valkey_factory: Callable[..., ValkeyProcess], tmp_path: Path
) -> None:
    server = valkey_factory()
    client = server.connect()
    metrics, limits = ReceiverMetrics(), Limits(20, 1 << 20)
    async with started(server.url, tmp_path, limits=limits, pace=Pace(watch=0.02), metrics=metrics) as it:
        for number in range(20):
            assert it.store == "redis"
            await it.commit(event(b"%d" % number))
        assert it.store == "spool"
        for left, store in ((19, "spool"), (18, "spool"), (17, "redis")):
            client.xtrim(STREAM, maxlen=left, approximate=False)
            await becomes(lambda left=left: metrics.inbox_events == left)  # type: ignore[misc]
            assert it.store == store, left
    client.close()


async def test_entries_set_aside_count_toward_the_inbox_limit(
    tmp_path: Path, valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    # Given entries of a source that the worker does not know, over half the limit in bytes
    server = valkey_factory()
    client = server.connect()
    unknown = [event(b"%d" % number + bytes(100_000)) for number in range(6)]
    await asyncio.to_thread(append, server.url, *unknown)
    reader = InboxReader(client, "test", EntryKeys({"other": ["s"]}))
    async with started(server.url, tmp_path, limits=Limits(100, 1 << 20), pace=Pace(watch=0.05, quiet=0)) as it:
        reader.ensure()
        assert set_aside(client, reader.read()) == len(unknown)
        await it.commit(event(b"below"))
        assert it.store == "redis"

        # When as many again are set aside
        await asyncio.to_thread(append, server.url, *unknown)
        set_aside(client, [each for each in reader.read() if each.event is None])

        # Then the next event goes to the spool
        await becomes(lambda: it.store == "spool")
        await it.commit(event(b"above"))
        assert event(b"above").id not in ids_in_inbox(server)
        assert examine(client).size >= 1 << 20

        # And to the inbox, once a person has dropped what was set aside
        drop_all(client)
        await becomes(lambda: event(b"above").id in ids_in_inbox(server))


async def test_unforeseen_error_sends_one_commit_to_the_spool(
    valkey_factory: Callable[..., ValkeyProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = valkey_factory()
    kept = [event(b"%d" % number) for number in range(2)]

    async def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("an answer that can't be read")

    async with started(server.url, tmp_path) as it:
        with monkeypatch.context() as once:
            once.setattr(AsyncScript, "__call__", broken)
            await it.commit(kept[0])
            assert "redis_away reason=an answer that can't be read" in caplog.text
        await becomes(lambda: it.store == "redis")
        await it.commit(kept[1])
        await becomes(lambda: set(ids_in_inbox(server)) == {each.id for each in kept})


async def test_those_who_wait_for_a_commit_that_is_broken_off_are_told(
    valkey_factory: Callable[..., ValkeyProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = valkey_factory()

    async def broken(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise asyncio.CancelledError  # of something that it waited for, not of the commit's own task

    async with started(server.url, tmp_path) as it:
        monkeypatch.setattr(InboxWriter, "append", broken)
        with pytest.raises(Busy):
            await it.commit(event(b"1"))
        await it.commit(event(b"2"))


async def test_lost_connection_is_retried_at_once_after_a_refusal(
    valkey_factory: Callable[..., ValkeyProcess], tmp_path: Path
) -> None:
    # Given a Redis that has refused a commit, and is used again after a while of distrust
    server = valkey_factory()
    async with started(server.url, tmp_path, pace=Pace(watch=0.05, distrust=0.2)) as it:
        with server.connect() as client:
            client.replicaof("127.0.0.1", 1)
            await it.commit(event(b"1"))
            assert it.store == "spool"
            client.replicaof("NO", "ONE")
        await becomes(lambda: it.store == "redis")
        # When it is restarted, then it is used again without that while
        it.pace = Pace(watch=0.05, distrust=3600)
        server.kill()
        await it.commit(event(b"2"))
        assert it.store == "spool"
        server.start()
        await becomes(lambda: it.store == "redis")


async def test_events_after_a_damaged_spool_reach_the_inbox(
    tmp_path: Path, valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    # Given spooled events that fill the inbox, and a drain that waits for the reply
    server, newest = valkey_factory(), event(b"newest")
    spooled = [event(b"%d" % number) for number in range(5)]
    left = Spool(tmp_path / "spool", 1 << 20, 0)
    left.open()
    left.append(spooled)
    left.close()
    await asyncio.to_thread(append, server.url, newest)  # which loads the script, so that its first call counts
    server.connect().xtrim(STREAM, 0)
    gate = Gate(server.port)
    caught = gate.catch(spooled[0].id.encode(), "after")
    url = f"redis://127.0.0.1:{gate.port}/0"
    async with started(url, tmp_path, limits=Limits(5, 1 << 20), pace=Pace(watch=0.05, quiet=0)) as it:
        await asyncio.to_thread(caught.wait)
        await becomes(lambda: it.store == "spool")

        # When the pages of the spool's file are overwritten, and an event is acknowledged
        with (tmp_path / "spool" / "events.db").open("r+b") as file:
            file.write(b"\xff" * 100_000)
        committed = False
        while not committed:
            with suppress(Busy):  # until a new file has replaced it
                await it.commit(newest)
                committed = True
        assert list((tmp_path / "spool").glob("*.damaged"))
        caught.release()

        # Then it reaches the inbox, once that has room
        assert ids_in_inbox(server) == [each.id for each in spooled]
        server.connect().xtrim(STREAM, 0)
        await becomes(lambda: ids_in_inbox(server) == [newest.id])
    gate.close()
