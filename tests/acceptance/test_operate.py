"""Replay, reroute and their control from the command line, with a clock that is killed in the middle; a worker that is
stopped while its sink is slow.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.ledger.schema import operations
from tests.servers import warm_python
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.long

Deployments = Callable[..., Deployment]


@pytest.fixture
def consumer() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def config(consumer: ScriptedServer, **http: Any) -> dict[str, Any]:
    sink = {"type": "http", "url": f"{consumer.url}/hooks", "retry": {"attempts": 2, "first": "100ms"}, **http}
    return {
        "sinks": {"hooks": sink, "results": {"type": "database", "url": "sqlite:///${RUNHOOK_DATA}/results.db"}},
        "routes": [{"name": "everything", "to": ["hooks"]}],
        "allowed_addresses": ["127.0.0.1"],
    }


def set_rate(it: Deployment, rate: float) -> None:
    """Change what all operations were asked for with: one slow enough to be met in its middle need not stay slow."""
    it.ledger.write(lambda connection: connection.execute(sa.update(operations).values(rate=rate)))


def keys(consumer: ScriptedServer) -> Counter[str]:
    return Counter(request.headers["webhook-id"] for request in consumer.requests)


def test_replay_keeps_its_rate_over_a_killed_clock_and_a_cancel(
    deployment: Deployments, redis_url: str, consumer: ScriptedServer
) -> None:
    # Given ten dead letters
    it = deployment(redis_url, **config(consumer))
    consumer.script += [Reply(400)] * 10
    it.run("worker")
    it.run("clock")
    it.start()
    it.acked(*(body(number) for number in range(10)))
    eventually(lambda: it.states() == {"dead": 10})
    refused = keys(consumer)

    # When a replay is counted, then begun at a rate, and the clock is killed in the middle of it
    assert it.runhook("replay", "--sink", "hooks", "--dry-run").startswith("10 deliveries to replay (dead")
    consumer.script += [Reply(400)] * 10
    line = ["-m", "receiver.cli", "replay", "--sink", "hooks", "--rate", "0.5", "--wait"]
    watch = warm_python.start(line, it.directory / "watch.log", env=it.environment)

    def progress() -> list[int]:
        return [int(found) for found in re.findall(r": (\d+) of 10$", it.log_of("watch"), re.MULTILINE)]

    eventually(lambda: len(progress()) >= 2)
    it.kill_part("clock")
    assert watch.poll() is None
    assert len(consumer.requests) < 20
    assert [each["rate"] for each in it.json("operations")] == [0.5]
    set_rate(it, 1000)
    it.run("clock")
    # Then it goes on where it stood, shows its progress, and sends each once more under the same key
    assert watch.wait(PATIENCE) == 0
    assert ": 10 deliveries to replay" in it.log_of("watch").splitlines()[1]
    assert progress() == sorted(progress())
    assert progress()[-1] == 10
    assert len(progress()) >= 3
    eventually(lambda: it.states() == {"dead": 10})
    assert keys(consumer) == {key: 2 * count for key, count in refused.items()}
    (done,) = it.json("operations")
    assert (done["state"], done["done"], done["total"], done["rate"]) == ("done", 10, 10, 1000)

    # And a second replay reaches a sink that is well by now, and a third has nothing to do unless it is forced
    it.runhook("replay", "--all", "--wait")
    it.all_delivered(10)
    some = it.deliveries()[0]
    assert "1 delivered (use --force to send them again)" in it.runhook("replay", some["id"], code=1)
    assert "wr_nobody: unknown run" in it.runhook("replay", some["id"], "wr_nobody", "--force", code=2)
    it.runhook("replay", some["id"], "--force")
    eventually(lambda: keys(consumer)[some["id"]] == 4)
    assert [each["outcome"] for each in it.json("attempts", some["id"])] == ["accepted"] * 2 + ["refused"] * 2

    # And one that is cancelled in the middle takes no more
    before = len(consumer.requests)
    (named,) = re.findall(r"op_\w+", it.runhook("replay", "--state", "delivered", "--force", "--rate", "0.1"))
    eventually(lambda: len(consumer.requests) > before)
    assert it.runhook("cancel", named).startswith(f"{named}: cancelled\n")
    stopped = it.json("operations")[0]
    assert stopped["state"] == "cancelled"
    assert 1 <= stopped["done"] < 10
    assert named in it.runhook("cancel", named, code=1)
    set_rate(it, 1000)  # the clock's next step would take the rest, were it still running
    # And a new sink is filled with the old events, once
    it.runhook("reroute", "--sink", "results", "--ignore-routes", "--since", "1d")
    it.all_delivered(10, sink="results")
    it.all_delivered(10, sink="hooks")
    assert len(consumer.requests) == before + stopped["done"]
    again = it.runhook("reroute", "--sink", "results", "--ignore-routes", "--since", "1d", "--dry-run")
    assert "10 events: 0 new deliveries" in again


def test_each_acknowledged_webhook_is_accounted_for(
    deployment: Deployments, redis_url: str, consumer: ScriptedServer
) -> None:
    # Given a worker that is killed in a night in which two results came again
    it = deployment(redis_url, **config(consumer))
    it.start()
    it.run("worker")
    sent = [body(1), body(2), body(1), body(3), body(1), body(3)]
    it.acked(*sent[:4])
    it.all_delivered(3)
    it.kill_part("worker")
    it.acked(*sent[4:], body(4), body(1))

    # When an operator asks before and after the next worker takes the rest
    def account() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(it.runhook("api", "get_totals"))["account"]
        return found

    waiting = account()
    it.run("worker")
    it.all_delivered(4)
    eventually(lambda: account()["same_again"] == 4, what=account)

    # Then each webhook is in one of the numbers
    assert waiting["webhooks"] + waiting["waiting"] == 8
    after = account()
    assert (after["webhooks"], after["recorded"], after["routed"], after["delivered"]) == (8, 4, 4, 4)
    assert after["unrouted"] + after["waiting"] + after["refused"] + after["pending"] == 0
