"""A delivery whose send kills the worker process takes no other one with it for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.support.ledger import new_event, record, with_tables
from tests.support.waiting import eventually

DEADLY = """
import os, signal
from handlers.http import HttpSink

def send(self, delivery, send=HttpSink.send):
    if delivery.run_id == "tsk_deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return send(self, delivery)

HttpSink.send = send
"""


def test_what_is_under_way_beside_a_deadly_delivery_arrives_and_stays_delivered(
    deployment: Callable[..., Deployment], redis_url: str
) -> None:
    with ScriptedServer() as consumer:
        # Given sends that take a moment, among them one that kills its process at once
        it = deployment(redis_url, sinks={"hook": {"type": "http", "url": consumer.url}})
        with_tables(it.ledger)
        consumer.script += [Reply(delay=0.3)] * 1000
        record(it.ledger, new_event("tsk_deadly", "hook"), *(new_event(f"tsk_{n}", "hook") for n in range(7)))
        it.run("worker", first=DEADLY)
        it.run("clock")
        # Then all the others are delivered, and what comes later is not held up either
        eventually(lambda: it.states() == {"delivered": 7, "queued": 1})
        record(it.ledger, *(new_event(f"tsk_{n}", "hook") for n in range(7, 20)))
        eventually(lambda: it.states().get("delivered") == 20)
        # And none was sent again and again
        assert max(Counter(request.headers["webhook-id"] for request in consumer.requests).values()) <= 4
