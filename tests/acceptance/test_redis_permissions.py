"""The whole way of a webhook with a user of Redis that may do what doctor tries, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from receiver.doctor import servers
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.servers.valkey import ValkeyProcess

# What redis-py and RQ ask for, to be told apart in lists of clients, and do without.
DISPENSABLE = {("command", f"client|{name}") for name in ("setinfo", "info", "list")}


@pytest.fixture
def consumer() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def refused(admin: redis.Redis) -> set[tuple[str, str]]:
    """What Redis has refused to the user: (why, which command or key)."""
    log: Any = admin.acl_log(100)
    return {(each["reason"], each["object"]) for each in log}


def test_what_doctor_tries_is_all_that_the_parts_need(
    deployment: Callable[..., Deployment], valkey_factory: Callable[..., ValkeyProcess], consumer: ScriptedServer
) -> None:
    # Given a user that may send the commands that doctor tries, on the keys that it names, and no others
    server = valkey_factory()
    admin = server.connect()
    allowed = ["+" + name.replace(" ", "|") for name in servers.commands()]
    admin.execute_command("ACL", "SETUSER", "parts", "reset", "on", ">pass", "~runhook:*", "~rq:*", *allowed)
    url = server.url.replace("redis://", "redis://parts:pass@")
    hooks = {
        "type": "http",
        "url": f"{consumer.url}/hooks",
        "rate": "100/s",
        "retry": {"attempts": 3, "first": "100ms"},
    }
    it = deployment(
        url,
        sinks={"hooks": hooks, "files": {"type": "files", "path": "${RUNHOOK_DATA}/files"}},
        routes=[{"name": "everything", "to": ["hooks", "files"]}],
        allowed_addresses=["127.0.0.1"],
    )
    consumer.script += [Reply(503)]
    it.run("worker")
    it.run("clock")
    it.start()

    # When webhooks come, one is tried again, a worker is killed and another takes over
    it.acked(*(body(number) for number in range(20)))
    it.all_delivered(40)
    it.kill_part("worker")
    it.acked(*(body(number) for number in range(20, 30)))
    it.run("worker")
    it.all_delivered(60)

    # Then doctor, status and all parts were refused nothing
    assert "its user may use all commands" in it.command("doctor").stdout
    it.command("status")
    assert refused(admin) <= DISPENSABLE
    admin.close()
