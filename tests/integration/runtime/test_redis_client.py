"""Clients of Redis and a server that is not what it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from receiver.runtime.redis_client import connect, connect_async
from tests.servers.valkey import ValkeyProcess


async def test_no_client_stays_with_a_server_that_became_a_replica(
    valkey_factory: Callable[..., ValkeyProcess],
) -> None:
    # Given clients with a connection each
    old, new = valkey_factory(), valkey_factory()
    admin = old.connect()
    client = connect(old.url, timeout=5.0, connect_timeout=2.0, retries=0)
    other = connect_async(old.url, timeout=5.0, connect_timeout=2.0, retries=0)
    before = client.client_id(), await other.client_id()
    # When their server is made a replica, as at a failover
    admin.replicaof("127.0.0.1", str(new.port))
    with pytest.raises(redis.ConnectionError, match="replica"):
        client.set("a", 1)
    with pytest.raises(redis.ConnectionError, match="replica"):
        await other.eval("return redis.call('SET', 'a', 1)", 0)
    # Then they connect anew, to what their address leads to by now
    admin.replicaof("NO", "ONE")
    client.set("a", 1)
    await other.set("a", 1)
    assert client.client_id() not in before
    assert await other.client_id() not in before
    await other.aclose()
    client.close()
    admin.close()
