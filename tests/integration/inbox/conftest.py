"""A reader of the inbox, and a client beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from receiver.inbox.reader import InboxReader
from tests.support.inbox import KEYS


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as it:
        yield it


@pytest.fixture
def reader(client: redis.Redis) -> InboxReader:
    reader = InboxReader(client, "first", KEYS)
    reader.ensure()
    return reader
