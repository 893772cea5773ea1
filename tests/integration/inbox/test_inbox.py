"""The inbox on a real Valkey: what goes in comes out, in order, until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis

from receiver import wakeups
from receiver.domain.event import Event, event_id
from receiver.domain.frame import NO_EVENT
from receiver.inbox import ASIDE, GROUP, STREAM
from receiver.inbox.reader import InboxReader
from receiver.inbox.state import InboxState, examine
from receiver.inbox.writer import InboxUnavailable, InboxWriter
from tests.servers.valkey import ValkeyProcess, free_port
from tests.support.inbox import taken_again
from tests.support.waiting import Stopwatch, eventually


@pytest.fixture
def reader(client: redis.Redis) -> InboxReader:
    reader = InboxReader(client, "first")
    reader.ensure()
    return reader


@pytest.fixture
def patient(redis_url: str, reader: InboxReader) -> Iterator[InboxReader]:
    """A reader that may wait for as long as a test takes."""
    with redis.Redis.from_url(redis_url, socket_timeout=None) as client:
        yield InboxReader(client, reader.consumer)


@pytest.fixture
async def writer(redis_url: str) -> AsyncIterator[InboxWriter]:
    writer = InboxWriter(redis_url, timeout=30)  # a busy disk is not what most of these tests are about
    yield writer
    await writer.close()


def event(number: int, body: bytes | None = None, **more: str) -> Event:
    body = b"body %d" % number if body is None else body
    return Event(event_id("skyvern", body), "skyvern", body, 1700000000.123456 + number, **more)  # type: ignore[arg-type]


async def test_events_come_out_as_they_went_in_and_in_order(writer: InboxWriter, reader: InboxReader) -> None:
    wanted = [
        event(0, b""),
        event(1, bytes(range(256)) * 100),
        event(2, via="poll", submission_id="sub_1"),
        event(3, "größe \u2028".encode()),
    ]
    assert (await writer.append(wanted[:3])).depth == 3
    assert (await writer.append(wanted[3:])).depth == 4
    assert [entry.event for entry in reader.read()] == wanted


async def test_what_was_read_is_nobody_elses_and_what_is_done_is_gone(
    writer: InboxWriter, reader: InboxReader, client: redis.Redis
) -> None:
    await writer.append([event(number) for number in range(5)])
    mine = reader.read(2)
    others = InboxReader(client, "second").read(10)
    assert [len(mine), len(others)] == [2, 3]
    assert reader.read() == []
    reader.done([entry.entry_id for entry in mine])
    reader.flush()
    assert client.xlen(STREAM) == 3
    reader.flush()


async def test_what_is_done_is_acknowledged_with_the_next_read(
    writer: InboxWriter, patient: InboxReader, client: redis.Redis
) -> None:
    # Given a reader that has finished one entry, and waits for the next
    await writer.append([event(0)])
    patient.done([each.entry_id for each in patient.read()])
    waiting = asyncio.create_task(asyncio.to_thread(patient.read, block_ms=60_000))
    await asyncio.to_thread(eventually, lambda: client.info("clients")["blocked_clients"] > 0)
    assert client.xlen(STREAM) == 1
    # When that one comes, then it is the only one that is left
    await writer.append([event(1)])
    (entry,) = await waiting
    assert client.xpending(STREAM, GROUP)["min"].decode() == entry.entry_id
    assert client.xlen(STREAM) == 1


async def test_failed_acknowledgement_is_made_with_the_next_read(
    writer: InboxWriter, reader: InboxReader, client: redis.Redis
) -> None:
    await writer.append([event(0)])
    reader.done([each.entry_id for each in reader.read()])
    client.acl_setuser("default", enabled=True, commands=["-xack"])
    try:
        with pytest.raises(redis.ResponseError, match="xack"):
            reader.flush()
        with pytest.raises(redis.ResponseError, match="xack"):
            reader.read()
    finally:
        client.acl_setuser("default", enabled=True, commands=["+xack"])
    assert reader.read() == []
    assert client.xlen(STREAM) == 0


async def test_commands_follow_the_acknowledgement(
    writer: InboxWriter, reader: InboxReader, client: redis.Redis
) -> None:
    await writer.append([event(number) for number in range(3)])
    entries = reader.read()
    reader.done([each.entry_id for each in entries[:2]])
    reader.flush([("XLEN", STREAM), ("SET", "runhook:told", "1")])
    assert (client.xlen(STREAM), client.get("runhook:told")) == (1, b"1")
    reader.done([entries[2].entry_id])
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        reader.flush([("LPUSH", "runhook:told", "1")])
    assert client.xlen(STREAM) == 0


def test_an_entry_that_is_no_event_is_handed_out_as_none(reader: InboxReader, client: redis.Redis) -> None:
    client.xadd(STREAM, {"what": "ever"})
    client.xadd(STREAM, {"at": "1700000000.5", "body": b"{}"})
    entries = reader.read()
    assert [(entry.event, entry.problem) for entry in entries] == [(None, NO_EVENT)] * 2


async def test_a_redis_that_lost_everything_is_no_trouble(
    writer: InboxWriter, reader: InboxReader, client: redis.Redis
) -> None:
    await writer.append([event(1)])
    client.delete(STREAM)
    assert reader.read() == []
    client.delete(STREAM)
    assert taken_again(client, "first") == []
    assert client.xlen(STREAM) == 0
    await writer.append([event(2)])
    assert [entry.event for entry in reader.read()] == [event(2)]


async def test_the_writer_says_whether_a_wake_up_is_outstanding(redis_url: str, client: redis.Redis) -> None:
    flag = wakeups.flag_key("dispatch")
    writer, quiet = InboxWriter(redis_url, timeout=30, wake_flag=flag), InboxWriter(redis_url, timeout=30)
    assert not (await writer.append([event(1)])).woken
    wakeups.wake(client, "dispatch")
    assert (await writer.append([event(2)])).woken
    for lasting in (None, 3600):  # a stranger's: ours lapse within seconds
        client.set(flag, "x", ex=lasting)
        assert not (await writer.append([event(4)])).woken
    client.delete(flag)
    assert (await quiet.append([event(3)])).woken  # it names no flag, and wakes nobody
    await writer.close()
    await quiet.close()


async def test_depth_counts_entries_and_bytes(writer: InboxWriter) -> None:
    await writer.append([event(number, b"x" * 10_000 + b"%d" % number) for number in range(20)])
    events, size = await writer.depth()
    assert events == 20
    assert 200_000 <= size < 1_000_000


async def test_the_writer_notes_each_new_connection(writer: InboxWriter, client: redis.Redis) -> None:
    await writer.append([event(1)])
    assert writer.connected_anew
    writer.connected_anew = False
    await writer.append([event(2)])
    assert not writer.connected_anew
    client.client_kill_filter(_type="normal", skipme=True)
    for number in (3, 4):
        try:
            await writer.append([event(number)])
        except InboxUnavailable:
            continue
    assert writer.connected_anew


async def test_a_script_that_redis_has_lost_is_sent_again(writer: InboxWriter, client: redis.Redis) -> None:
    await writer.append([event(1)])
    client.script_flush()
    assert (await writer.append([event(2)])).depth == 2


async def test_a_closed_port_is_unavailable_at_once() -> None:
    writer = InboxWriter(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(InboxUnavailable):
        await writer.append([event(1)])
    with pytest.raises(InboxUnavailable):
        await writer.depth()
    await writer.close()


async def test_a_redis_that_hangs_is_unavailable_in_half_a_second(
    valkey_factory: Callable[..., ValkeyProcess],
) -> None:
    server = valkey_factory()
    writer = InboxWriter(server.url)
    await writer.append([event(1)])
    server.hang()
    watch = Stopwatch()
    for number in (2, 3):
        with pytest.raises(InboxUnavailable):
            await writer.append([event(number)])
    watch.at_most(5)
    server.resume()
    assert (await writer.append([event(4)])).depth >= 2
    await writer.close()


async def test_an_error_reply_means_that_nothing_was_added(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    server = valkey_factory(maxmemory="3mb")
    writer = InboxWriter(server.url)
    with pytest.raises(InboxUnavailable) as caught:  # noqa: PT012
        for number in range(100):
            await writer.append([event(number, bytes(100_000) + b"%d" % number)])
    assert caught.value.refused
    client = server.connect()
    before = client.xlen(STREAM)
    with pytest.raises(InboxUnavailable):
        await writer.append([event(number, bytes(500_000) + b"%d" % number) for number in range(1000, 1010)])
    assert client.xlen(STREAM) == before
    client.close()
    await writer.close()


async def test_a_password_in_the_url_is_used_and_not_shown(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    server = valkey_factory()
    client = server.connect()
    client.config_set("requirepass", "hunter2")
    good = InboxWriter(f"redis://:hunter2@127.0.0.1:{server.port}/3")
    assert (await good.append([event(1)])).depth == 1
    bad = InboxWriter(f"redis://:wr0ng@127.0.0.1:{server.port}/3")
    with pytest.raises(InboxUnavailable) as caught:
        await bad.append([event(1)])
    assert "wr0ng" not in str(caught.value)
    for each in (good, bad):
        await each.close()
    client.close()


async def test_state_shows_entries_age_and_pending(
    client: redis.Redis, reader: InboxReader, writer: InboxWriter
) -> None:
    client.delete(STREAM)
    assert examine(client) == InboxState()
    await writer.append([event(number) for number in range(3)])
    fresh = examine(client)
    reader.ensure()
    reader.read(2)
    client.xadd(ASIDE, {"why": "x"})
    later = examine(client)

    assert (fresh.entries, fresh.pending, fresh.set_aside, fresh.trouble) == (3, 0, 0, "")
    assert 0 <= (fresh.oldest or 0.0) < 600
    assert fresh.size > 0
    assert (later.entries, later.pending, later.set_aside) == (3, 2, 1)
    # And keys that another program has written are reported, or count as nothing
    client.set(ASIDE, "x")
    assert examine(client).set_aside == 0
    client.set(STREAM, "x")
    assert examine(client).trouble
