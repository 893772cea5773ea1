"""A rate that is counted in Redis, and by each process alone while that fails."""

from __future__ import annotations

from collections.abc import Callable

import redis

from receiver.runtime.throttle import RateLimits, SharedRate
from tests.servers.valkey import ValkeyProcess

LIMIT = (3, 60.0)


def test_processes_share_a_rate(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        one, other = (SharedRate(client, "sink/ops", LIMIT) for _ in range(2))
        assert [one.take(2), other.take(2), one.take(1)] == [2, 1, 0]


def test_full_redis_keeps_the_window(valkey_factory: Callable[..., ValkeyProcess]) -> None:
    with redis.Redis.from_url(valkey_factory().url) as client:
        # Given a rate of which one is left, in a Redis that becomes full
        rate = SharedRate(client, "sink/ops", LIMIT)
        assert rate.take(2) == 2
        client.config_set("maxmemory", "1kb")
        # Then each process counts by itself
        assert RateLimits(client).take("sink/ops", LIMIT, 9) == 3
        # And the same one is left when there is room again
        client.config_set("maxmemory", "0")
        assert rate.take(3) == 1


def test_window_of_another_type_is_counted_alone(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        SharedRate(client, "sink/ops", LIMIT).take(1)
        (key,) = client.keys()
        client.set(key, "written by another program")
        assert RateLimits(client).take("sink/ops", LIMIT, 9) == 3
