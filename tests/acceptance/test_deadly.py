"""A delivery whose send kills the worker process takes no other one with it for good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import redis

from receiver import wakeups
from receiver.domain.frame import EntryKeys
from receiver.inbox.recovery import KILLS
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.receiver import CONFIG
from tests.support.events import body, event
from tests.support.inbox import append
from tests.support.ledger import event_body, new_event, record, with_tables
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

DEADLY = """
import os, signal
from handlers.http import HttpSink

def send(self, delivery, send=HttpSink.send):
    if delivery.run_id == "tsk_deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return send(self, delivery)

HttpSink.send = send
"""


def test_deliveries_beside_a_deadly_one_arrive(deployment: Callable[..., Deployment], redis_url: str) -> None:
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


KEYS = EntryKeys({name: source["secrets"] for name, source in CONFIG["sources"].items()})
DEADLY_TO_READ = """
import os, signal
from receiver.dispatch import decide

def parse_event(event, *rest, parse=decide.parse_event):
    if b"tsk_deadly" in event.body:
        os.kill(os.getpid(), signal.SIGKILL)
    return parse(event, *rest)

decide.parse_event = parse_event
"""


def test_event_that_kills_each_dispatcher_ends_unread(deployment: Callable[..., Deployment], redis_url: str) -> None:
    # Given events in the inbox, one of which kills the dispatcher that reads it
    routes = [{"name": "all", "to": ["archive"]}]
    it = deployment(redis_url, sinks={"archive": {"type": "files", "path": "${RUNHOOK_DATA}/archive"}}, routes=routes)
    with_tables(it.ledger)
    deadly = event(body("tsk_deadly"))
    append(redis_url, event(body("tsk_1")), deadly, event(body("tsk_2")), keys=KEYS)
    # When a worker runs whose dispatcher it kills again and again
    it.run("worker", first=DEADLY_TO_READ)
    # Then its neighbours are delivered, and it is in the ledger with its body, marked
    eventually(lambda: it.states() == {"delivered": 2})
    eventually(lambda: event_body(it.ledger, deadly.id) == deadly.body)
    (found,) = [row for row in it.json("events") if row["id"] == deadly.id]
    assert found["disposition"] == "unreadable"
    assert KILLS in found["problem"]
    # And what comes later goes its way
    append(redis_url, event(body("tsk_3")), keys=KEYS)
    with redis.Redis.from_url(redis_url) as client:
        wakeups.wake(client, "dispatch")
    eventually(lambda: it.states() == {"delivered": 3})
