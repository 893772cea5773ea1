"""Alerts and digests of real clocks: once each over several hosts, outages and a clock that is killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.valkey import ValkeyProcess
from tests.support.ledger import new_event, record, with_tables
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

# As the clock has it, only quicker.
QUICK = "from receiver.checks import alerter; alerter.EVERY, alerter.AGAIN_AFTER = 0.5, 2.0"


@pytest.fixture
def ops() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def pager() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def messages(server: ScriptedServer) -> list[dict[str, Any]]:
    """The messages by their ids: one that is sent again has the same."""
    found = {request.headers["webhook-id"]: json.loads(request.body) for request in list(server.requests)}
    return list(found.values())


def reported(server: ScriptedServer) -> Counter[str]:
    """How often each begin and end was reported."""
    return Counter(
        f"{sign}{row['code']} {row['about']}".strip()
        for message in messages(server)
        for sign, rows in (("+", message.get("problems", [])), ("-", message.get("ended", [])))
        for row in rows
    )


def alerting(to: dict[str, ScriptedServer], **alerts: Any) -> dict[str, Any]:
    sinks = {name: {"type": "http", "url": server.url, "timeout": "5s"} for name, server in to.items()}
    return {
        "sinks": {**sinks, "results": {"type": "files", "path": "${RUNHOOK_DATA}/results"}},
        "routes": [{"name": "everything", "to": ["results"]}],
        "spool": {"reserve_bytes": 0},
        "alerts": {"to": list(to), "after": 0, **alerts},
    }


def test_each_problem_is_reported_once_by_two_hosts_through_outages(
    deployment: Callable[..., Deployment],
    valkey_factory: Callable[..., ValkeyProcess],
    ops: ScriptedServer,
    pager: ScriptedServer,
) -> None:
    # Given two hosts with a clock each and no worker, and a pager that refuses everything
    valkey = valkey_factory()
    pager.default = Reply(410)
    config = alerting({"ops": ops, "pager": pager}, link="https://runhook.example/console")
    one = deployment(valkey.url, **config)
    two = deployment(valkey.url, one.database_url, **config)
    one.start()
    one.run("clock", first=QUICK)
    eventually(lambda: "part.started" in one.log_of("clock"))
    two.run("clock", first=QUICK)

    # Then the missing worker is reported to ops with the fix, and so is the pager, also by status
    eventually(lambda: {"+part_missing worker", "+alert_failed pager"} <= set(reported(ops)))
    (problem,) = (row for m in messages(ops) for row in m["problems"] if row["code"] == "part_missing")
    assert "runhook worker" in problem["todo"]
    assert messages(ops)[0]["link"] == "https://runhook.example/console"
    (shown,) = (each for each in json.loads(one.call("status", "--json").stdout)["problems"] if "alert" in each["code"])
    assert "pager does not accept alerts" in shown["what"]
    assert "410" in shown["what"]

    # When Redis is away for a while
    valkey.kill()
    eventually(lambda: "+redis_away" in reported(ops))
    valkey.start()
    eventually(lambda: "-redis_away" in reported(ops))

    # When the clock that sends is killed, after it noted what it sent, and the pager accepts messages again
    eventually(lambda: b"redis_away" not in redis.Redis.from_url(valkey.url).get("runhook:alerts"))
    one.kill_part("clock")
    requests = len(ops.requests)
    pager.default = Reply()
    two.run("worker")

    # Then the other one goes on where it ended
    eventually(lambda: "-part_missing worker" in reported(ops) and "-alert_failed pager" in reported(ops))
    eventually(lambda: "-part_missing worker" in reported(pager) or "+part_missing worker" not in reported(pager))
    assert len(ops.requests) > requests
    two.parts["clock"].terminate()
    two.parts["clock"].wait()
    # And ops got each begin and end exactly once, and nothing was sent twice
    assert {key: count for key, count in reported(ops).items() if count > 1} == {}
    assert len(messages(ops)) == len(ops.requests)
    assert "alert_failed pager" not in str(reported(pager))


def test_a_digest_is_sent_once_a_day(
    deployment: Callable[..., Deployment], valkey_factory: Callable[..., ValkeyProcess], ops: ScriptedServer
) -> None:
    # Given runs of yesterday, and a clock that last sent the digest of the day before
    valkey = valkey_factory()
    it = deployment(valkey.url, **alerting({"ops": ops}, digest="daily"))
    with_tables(it.ledger)
    it.start()
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = midnight - timedelta(days=1)
    ended = [("failed", "Invoices", "no login form")] * 2 + [
        ("failed", "Orders", "timeout"),
        ("completed", "Orders", ""),
    ]
    runs = [
        new_event(f"wr_{number}", status=status, workflow_title=title, failure_reason=reason)
        for number, (status, title, reason) in enumerate(ended)
    ]
    record(it.ledger, *runs, now=yesterday.timestamp() + 3600)
    record(it.ledger, new_event("wr_today", status="failed"), now=midnight.timestamp())
    sent = {"alerts": {}, "failing": {}, "digests": {"ops": f"{yesterday:%Y-%m-%d}"}}
    client = redis.Redis.from_url(valkey.url)
    client.set("runhook:alerts", json.dumps(sent))

    # When it runs, and is started again
    it.run("clock", first=QUICK)
    eventually(lambda: [m for m in messages(ops) if m["type"] == "runhook.digest"])
    # (killed after it noted what it sent: a crash in between sends a message again)
    noted = f'"{midnight:%Y-%m-%d}"'.encode()
    eventually(lambda: noted in client.get("runhook:alerts"))
    it.kill_part("clock")
    it.run("clock", first=QUICK)
    count = len(ops.requests)
    for _ in range(3):  # rounds
        client.delete("runhook:alerts:clock")
        eventually(lambda: client.get("runhook:alerts:clock"))

    # Then it was sent once, with yesterday's runs and nothing of today
    (digest,) = (m for m in messages(ops) if m["type"] == "runhook.digest")
    assert digest["title"] == f"Runhook: 4 runs on {yesterday:%Y-%m-%d}"
    assert digest["statuses"] == {"failed": 3, "completed": 1}
    assert digest["failures"] == [
        {"workflow": "Invoices", "status": "failed", "reason": "no login form", "count": 2},
        {"workflow": "Orders", "status": "failed", "reason": "timeout", "count": 1},
    ]
    assert digest["text"].startswith("3 failed, 1 completed\n• 2 × Invoices: failed: no login form\n")
    assert not digest["urgent"]
    assert [json.loads(r.body)["type"] for r in ops.requests[count:]] == []
