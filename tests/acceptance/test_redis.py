"""A Redis with a user that may do little, and one that lost its data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from receiver.checks import servers
from receiver.domain.event import Event, event_id
from receiver.domain.frame import FRAME, MACS, UNKNOWN_SOURCE, EntryKeys, frame_of, head_of
from receiver.inbox import ASIDE, GROUP, STREAM
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import SECRET, body
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.servers.valkey import ValkeyProcess
from tests.support.ledger import with_tables
from tests.support.waiting import eventually

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
    assert "the user may run all required commands" in it.command("doctor").stdout
    it.command("status")
    assert refused(admin) <= DISPENSABLE
    admin.close()


def test_resting_worker_takes_back_what_another_set_aside(
    deployment: Callable[..., Deployment], redis_url: str
) -> None:
    # Given a worker that rests
    it = deployment(redis_url, sources={"skyvern": {"secrets": [SECRET]}}, sinks={}, routes=[])
    with_tables(it.ledger)
    it.run("worker")
    with redis.Redis.from_url(redis_url) as client:
        readers: Any = client
        eventually(lambda: client.exists(STREAM) and readers.xinfo_consumers(STREAM, GROUP))
        eventually(lambda: min(each["idle"] for each in readers.xinfo_consumers(STREAM, GROUP)) > 3000)
        # When another one, whose config lacks its source, sets an event aside
        event = Event(event_id("skyvern", body(1)), "skyvern", body(1), time.time())
        macs = EntryKeys({"skyvern": [SECRET]}).macs("skyvern", head_of(event))
        client.xadd(ASIDE, {FRAME: frame_of(event), MACS: macs, "why": UNKNOWN_SOURCE, "was": "1-1", "since": "1"})
        # Then it records the event
        eventually(lambda: len(it.json("events")) == 1)
        assert client.xlen(ASIDE) == 0


def lost(it: Deployment) -> str:
    """The first line of `runhook status` if it says that Redis lost its data."""
    line = it.call("status").stdout.splitlines()[0]
    return line if "Redis lost its data at" in line else ""


def test_status_reports_lost_redis_until_results_are_imported(
    deployment: Callable[..., Deployment],
    valkey_factory: Callable[..., ValkeyProcess],
    skyvern_simulator: SkyvernSimulator,
    postgres_url: str,
) -> None:
    # Given a deployment whose Redis was new, and that has recorded a webhook
    server = valkey_factory()
    source = {"secrets": [SECRET], "api_key": KEY, "api_base": skyvern_simulator.url}
    settings: dict[str, Any] = {"sources": {"skyvern": source}, "sinks": {}, "routes": []}
    it = deployment(server.url, **settings)
    it.start()
    it.run("worker")
    it.acked(body(1))
    eventually(lambda: len(it.json("events")) == 1)

    # When Redis restarts with its data, and another worker starts
    it.kill_part("worker")
    server.restart()
    it.acked(body(2))
    it.run("worker")
    eventually(lambda: len(it.json("events")) == 2)
    # Then nothing is lost
    assert not lost(it)

    # When Redis loses its data while no webhook comes
    (run_id,) = skyvern_simulator.ended("acknowledged, and not recorded")
    with server.connect() as client:
        readers: Any = client
        eventually(lambda: min(each["idle"] for each in readers.xinfo_consumers(STREAM, GROUP)) > 1000)  # it rests
        client.flushall()
    # Then status says so first, with the command that imports missing results
    eventually(lambda: lost(it))
    assert "`runhook reconcile --since 25h --import --now`" in it.call("status").stdout
    # And an import that does not go back so far changes nothing
    it.runhook("reconcile", "--import", "--now", "--for", "0", "--since", "0s")
    assert lost(it)
    # And one that leaves young runs to the clock ends it
    it.runhook("reconcile", "--since", "25h", "--import", "--for", "0")
    assert run_id not in it.runhook("runs")
    assert not lost(it)
    it.runhook("reconcile", "--since", "25h", "--import", "--now", "--for", "0")
    assert run_id in it.runhook("runs")

    # When the ledger is copied, and its new deployment has a new Redis
    it.end()
    it.runhook("ledger", "copy", "--to", postgres_url)
    moved = deployment(valkey_factory().url, postgres_url, **settings)
    moved.start()
    moved.run("worker")
    moved.acked(body(3))
    eventually(lambda: len(moved.json("events")) == 4)
    assert not lost(moved)
