"""Connections to Redis that are reset, again and again, under load: the receiver goes back to Redis each time."""

from __future__ import annotations

from collections.abc import Callable

import httpx2

from tests.servers.gate import Gate
from tests.servers.receiver import Load, ReceiverProcess
from tests.servers.valkey import ValkeyProcess
from tests.support.inbox import all_arrive
from tests.support.waiting import eventually

RESETS = 40


def test_a_receiver_is_back_at_redis_after_each_reset_of_its_connections(
    valkey_factory: Callable[..., ValkeyProcess], receiver_factory: Callable[..., ReceiverProcess]
) -> None:
    server = valkey_factory(appendonly="yes", appendfsync="always")
    with Gate(server.port) as gate:
        receiver = receiver_factory(f"redis://127.0.0.1:{gate.port}/0")

        def back() -> bool:
            answer = httpx2.get(f"{receiver.url}/readyz", timeout=60)
            assert answer.status_code == 200, answer.text
            return bool(answer.json()["store"] == "redis")

        with Load(receiver, threads=8) as load:
            for _ in range(RESETS):
                load.more(20)
                gate.reset()
                load.more(5)
                eventually(back, every=0.02)

        assert (load.statuses, load.lost) == ([], 0)
        all_arrive(server, load.acked)
        assert httpx2.get(f"{receiver.url}/metrics", timeout=60).status_code == 200
