"""What a stranger does to the inbox with Redis's own commands keeps no acked event from being read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from receiver.inbox.reader import InboxReader
from receiver.inbox.stream import GROUP, STREAM
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
