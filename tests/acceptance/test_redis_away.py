"""While Redis is away no bell rings: the workers look into the ledger by themselves."""

from __future__ import annotations

from collections.abc import Callable

from receiver.ledger.migrate import ensure_schema
from tests.integration.test_ledger import new_event, record
from tests.servers.deployment import Deployment
from tests.servers.http import ScriptedServer
from tests.servers.receiver import eventually
from tests.servers.valkey import ValkeyProcess


def test_what_is_due_is_delivered_while_redis_is_away(
    deployment: Callable[..., Deployment], valkey_factory: Callable[..., ValkeyProcess]
) -> None:
    server = valkey_factory()
    with ScriptedServer() as plain, ScriptedServer() as rated:
        # Given a worker at rest, and no clock
        it = deployment(
            server.url,
            sinks={
                "hook": {"type": "http", "url": plain.url},
                "rated": {"type": "http", "url": rated.url, "rate": "100/s"},
            },
            routes=[{"name": "all", "to": ["hook"]}],
        )
        ensure_schema(it.ledger)
        record(it.ledger, new_event("tsk_0", "hook", "rated"))
        it.run("worker")
        it.all_delivered(2)
        # When Redis is away, and deliveries come due
        server.kill()
        record(it.ledger, *(new_event(f"tsk_{number}", "hook", "rated") for number in range(1, 20)))
        # Then they go out all the same, but for a sink whose rate stands in Redis
        eventually(lambda: it.states("hook") == {"delivered": 20}, 60)
        assert it.states("rated") == {"delivered": 1, "queued": 19}
        # And when it is back, the rest does
        server.start()
        it.all_delivered(40)
        assert len(plain.requests) == len(rated.requests) == 20
