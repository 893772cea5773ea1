"""What a stranger does to the inbox with Redis's own commands keeps no acked event from being read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from receiver.domain.inbox_entry import NO_EVENT
from receiver.inbox import aside
from receiver.inbox.aside import list_aside, set_aside
from receiver.inbox.reader import InboxReader
from receiver.inbox.recovery import DEATHS, LAST, InboxRecovery
from receiver.inbox.stream import ASIDE, GROUP, STREAM, UNPROVEN_ASIDE
from receiver.inbox.writer import InboxUnavailable
from tests.support.inbox import KEYS, fill

LAST_ID = f"{2**64 - 1}-{2**64 - 1}"


def bodies_read(reader: InboxReader) -> list[bytes]:
    """What two reads get, one of which waits a little, as a job of the dispatcher does."""
    entries = reader.read() or reader.read(block_ms=10)
    return [entry.event.body for entry in entries if entry.event]


def place_moved(client: redis.Redis) -> None:
    client.xgroup_setid(STREAM, GROUP, LAST_ID)


def reader_removed(client: redis.Redis) -> None:
    client.xreadgroup(GROUP, "stranger", {STREAM: ">"})
    client.xgroup_delconsumer(STREAM, GROUP, "stranger")


def acknowledged(client: redis.Redis) -> None:
    reply: Any = client.xreadgroup(GROUP, "stranger", {STREAM: ">"})
    client.xack(STREAM, GROUP, *(entry_id for entry_id, _ in reply[0][1]))


@pytest.mark.parametrize("attack", [place_moved, reader_removed, acknowledged])
def test_an_entry_that_nobody_would_read_is_read(
    redis_url: str, client: redis.Redis, reader: InboxReader, attack: Callable[[redis.Redis], None]
) -> None:
    fill(redis_url, b"1", b"2")
    attack(client)
    assert bodies_read(reader) == [b"1", b"2"]
    assert bodies_read(reader) == []


def test_what_others_have_read_is_not_read_again(redis_url: str, client: redis.Redis, reader: InboxReader) -> None:
    fill(redis_url, b"1")
    assert bodies_read(InboxReader(client, "second", KEYS)) == [b"1"]
    assert bodies_read(reader) == []


def test_an_inbox_whose_ids_are_used_up_is_begun_anew_once_it_is_empty(
    redis_url: str, client: redis.Redis, reader: InboxReader
) -> None:
    # Given an event, and behind it a stranger's entry with the last id that there is
    fill(redis_url, b"1")
    client.xadd(STREAM, {"a": "b"}, id=LAST_ID)
    # Then events are refused, and none of what is there is touched
    with pytest.raises(InboxUnavailable) as caught:
        fill(redis_url, b"2")
    assert caught.value.refused
    entries = reader.read()
    assert len(entries) == 2
    # When the one is done and the other set aside
    reader.done([entries[0].entry_id])
    reader.flush()
    set_aside(client, entries[1:])
    # Then the inbox takes events, and they are read
    fill(redis_url, b"2", b"3")
    assert bodies_read(reader) == [b"2", b"3"]


def why_aside(client: redis.Redis) -> list[tuple[bool, str]]:
    """Of each entry that was set aside: whether it is proven, and why."""
    return [(not each.aside_id.startswith("u"), each.why) for each in list_aside(client, page=2)]


def test_a_place_for_what_is_set_aside_whose_ids_are_used_up_takes_more_and_loses_none(
    client: redis.Redis, reader: InboxReader
) -> None:
    client.xadd(UNPROVEN_ASIDE, {"a": "kept", "why": "x"}, id=LAST_ID)
    for _ in range(3):
        client.xadd(STREAM, {"a": "b"})
        assert set_aside(client, reader.read()) == 1
    assert why_aside(client) == [(False, "x"), *[(False, NO_EVENT)] * 3]
    assert [key for key in client.keys("runhook:inbox:*") if b"full" in key] == []


def test_of_what_no_key_has_signed_the_newest_are_kept_and_of_all_else_each(
    client: redis.Redis, reader: InboxReader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(aside, "UNPROVEN", 3)
    fields = [{"n": f"{number}", "body": "x"} for number in range(5)]
    for each in fields:
        client.xadd(STREAM, each)  # type: ignore[arg-type]
    entries = reader.read()
    assert set_aside(client, [each._replace(problem="it could not be recorded") for each in entries[:1]]) == 1
    assert set_aside(client, entries[1:]) == 4
    assert why_aside(client) == [(True, "it could not be recorded"), *[(False, NO_EVENT)] * 3]
    kept: Any = client.xrange(UNPROVEN_ASIDE)
    assert [found[b"n"] for _, found in kept] == [b"2", b"3", b"4"]
    assert "inbox.dropped entries=1" in caplog.text
    # And so with their bytes
    monkeypatch.setattr(aside, "UNPROVEN_BYTES", 300_000)
    for number in range(6):
        client.xadd(STREAM, {"n": f"{number}", "body": "x" * 100_000})
        set_aside(client, reader.read())
    kept = client.xrange(UNPROVEN_ASIDE)
    assert 1 <= len(kept) <= 3
    assert kept[-1][1][b"n"] == b"5"
    assert client.xlen(ASIDE) == 1


def test_a_stranger_who_lets_an_event_count_as_deadly_is_not_believed(
    redis_url: str, client: redis.Redis, reader: InboxReader
) -> None:
    fill(redis_url, b"1", b"2")
    for entry in reader.read():
        client.xclaim(STREAM, GROUP, "first", 0, [entry.entry_id], retrycount=1_000_000, justid=True)
        client.hset(DEATHS, entry.entry_id, b"100 0123456789abcdef0123456789abcdef")
    recovery = InboxRecovery(client, reader)
    for body in (b"1", b"2"):
        taken = recovery.take(0, 0)
        assert taken is not None
        assert [(each.event and each.event.body, taken.raw) for each in taken.entries] == [(body, False)]
        reader.done([each.entry_id for each in taken.entries])
        reader.flush()
        recovery.forget(taken)
    assert client.exists(DEATHS) == 0
    client.set(DEATHS, "no hash")
    fill(redis_url, b"3")
    (entry,) = reader.read()
    client.xclaim(STREAM, GROUP, "first", 0, [entry.entry_id], retrycount=LAST, justid=True)
    taken = recovery.take(0, 0)
    assert taken is not None
    assert not taken.raw
