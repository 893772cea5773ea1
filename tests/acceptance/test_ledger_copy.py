"""A service moves from SQLite to PostgreSQL: what was in flight when it stopped is delivered after the move, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import body
from tests.support.waiting import eventually

pytestmark = pytest.mark.long


def test_events_in_flight_are_delivered_after_a_move(
    deployment: Callable[..., Deployment], redis_url: str, postgres_url: str
) -> None:
    with ScriptedServer() as consumer:
        # Given a service on SQLite with two deliveries made, and three that wait for a retry
        sink: dict[str, Any] = {"type": "http", "url": f"{consumer.url}/hooks", "retry": {"first": "200ms"}}
        settings = {
            "sinks": {"hooks": sink},
            "routes": [{"name": "all", "to": ["hooks"]}],
            "allowed_addresses": ["127.0.0.1"],
        }
        it = deployment(redis_url, **settings)
        it.start()
        it.run("worker")
        it.acked(body(1), body(2))
        it.all_delivered(2)
        consumer.script += [Reply(503)] * 1000
        it.acked(body(3, output="nordwind"), body(4), body(5))
        eventually(lambda: it.states().get("waiting") == 3)
        # When it is copied while it runs, that is refused
        assert "in use by" in it.runhook("ledger", "copy", "--to", postgres_url, code=3)
        # And when it is stopped, copied, and started on PostgreSQL
        it.acked(body(6))
        it.end()
        assert " deliveries" in it.runhook("ledger", "copy", "--to", postgres_url)
        consumer.script.clear()
        before = len(consumer.requests)
        moved = deployment(redis_url, postgres_url, **settings)
        moved.start()
        moved.run("worker")
        moved.run("clock")
        # Then each event is delivered, those that were delivered before not again, and all runs are found by words
        moved.all_delivered(6)
        sent = [each.headers["webhook-id"] for each in consumer.requests[before:]]
        assert len(sent) == len(set(sent)) == 4
        eventually(lambda: len(moved.json("runs", "--text", "nordwind")) == 1)
