"""A client of the test's own database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from receiver.runtime import redis_client


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis_client.connect(redis_url, timeout=5.0, connect_timeout=2.0, retries=0) as it:
        yield it
