"""A rate that is counted in Redis, whatever a stranger writes there."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from receiver.runtime.throttle import SharedRate
from tests.servers.valkey import ValkeyProcess

LIMIT = (3, 60.0)


def a_string(client: redis.Redis, key: bytes) -> None:
    client.set(key, "a stranger's")


def no_times(client: redis.Redis, key: bytes) -> None:
    client.rpush(key, *["x"] * 3)


def times_to_come(client: redis.Redis, key: bytes) -> None:
    client.rpush(key, *[time.time() + 1e9] * 3)


def for_ever(client: redis.Redis, key: bytes) -> None:
    client.rpush(key, *["inf"] * 3)


@pytest.mark.parametrize("spoil", [a_string, no_times, times_to_come, for_ever])
def test_a_window_that_a_stranger_has_written_is_begun_anew(
    redis_url: str, spoil: Callable[[redis.Redis, bytes], None]
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        # Given a rate of which one is left, in the one key that there is
        rate = SharedRate(client, "sink/ops", LIMIT)
        assert rate.take(2) == 2
        (key,) = client.keys()
        # When a stranger writes that key
        client.delete(key)
        spoil(client, key)
        # Then there is a whole window again, and no more
        assert rate.take(2) == 2
        assert rate.take(2) == 1
        assert rate.take(1) == 0


def test_full_redis_keeps_the_window(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    with redis.Redis.from_url(valkey_factory().url) as client:
        # Given a rate of which one is left, in a Redis that becomes full
        rate = SharedRate(client, "sink/ops", LIMIT)
        assert rate.take(2) == 2
        client.config_set("maxmemory", "1kb")
        with pytest.raises(redis.OutOfMemoryError):
            rate.take(1)
        # Then the same one is left when there is room again
        client.config_set("maxmemory", "0")
        assert rate.take(3) == 1
