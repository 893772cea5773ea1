"""What a real Redis says of its settings, where it shows them and where it forbids that."""

from __future__ import annotations

from collections.abc import Callable

from receiver.ingest.redis_settings import Durability, examine
from receiver.runtime.redis_client import connect_async
from tests.servers.valkey import ValkeyProcess

Valkeys = Callable[..., ValkeyProcess]


async def examined(url: str, max_body: int = 0) -> Durability:
    client = connect_async(url, timeout=30.0, connect_timeout=30.0, retries=0)
    try:
        return await examine(client, max_body)
    finally:
        await client.aclose()


async def test_a_redis_that_shows_its_settings_is_judged_by_them(valkey: ValkeyProcess) -> None:
    assert (await examined(valkey.url)).strong
    (problem,) = (await examined(valkey.url, max_body=1 << 40)).problems
    assert problem.startswith("proto-max-bulk-len is ")


async def test_a_redis_that_forbids_config_is_not_known(valkey_factory: Valkeys) -> None:
    server = valkey_factory()
    client = server.connect()
    client.execute_command("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-config")
    client.close()
    found = await examined(f"redis://app:pw@127.0.0.1:{server.port}/0")
    assert (found.known, found.strong) == (False, False)
    assert "forbids CONFIG GET" in found.problems[0]
