"""What a stranger does to the inbox with Redis's own commands keeps no acked event from being read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from receiver.inbox import ASIDE, GROUP, STREAM, InboxReader, InboxUnavailable
from receiver.inbox_recovery import InboxRecovery
from tests.support.inbox import KEYS, fill

LAST_ID = f"{2**64 - 1}-{2**64 - 1}"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as it:
        yield it


@pytest.fixture
def reader(client: redis.Redis) -> InboxReader:
    reader = InboxReader(client, "first", KEYS)
    reader.ensure()
    return reader


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
    client.xadd(STREAM, {"a": "b"}, id=LAST_ID)  # type: ignore[arg-type]
    # Then events are refused, and none of what is there is touched
    with pytest.raises(InboxUnavailable) as caught:
        fill(redis_url, b"2")
    assert caught.value.refused
    entries = reader.read()
    assert len(entries) == 2
    # When the one is done and the other set aside
    reader.done([entries[0].entry_id])
    InboxRecovery(client, reader).set_aside(entries[1:])
    # Then the inbox takes events, and they are read
    fill(redis_url, b"2", b"3")
    assert bodies_read(reader) == [b"2", b"3"]


def test_a_place_for_what_is_set_aside_that_is_full_makes_room(
    redis_url: str, client: redis.Redis, reader: InboxReader
) -> None:
    client.xadd(ASIDE, {"a": "kept"}, id=LAST_ID)  # type: ignore[arg-type]
    client.xadd(STREAM, {"a": "b"})
    assert InboxRecovery(client, reader).set_aside(reader.read()) == 1
    assert client.xlen(ASIDE) == 1
    (full,) = client.keys(f"{ASIDE}:full:*")
    kept: Any = client.xrange(full)
    assert kept[0][1] == {b"a": b"kept"}
