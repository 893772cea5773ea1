"""Kills, cuts and outages at one chosen moment; test_killed_at_each_step.py kills each process at each of its steps.

A gate stands between the processes and their servers, and shuts at a chosen request; then the process is killed, or the
connection cut. Each test leaves the deployment as it found it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.domain.event import delivery_id, event_id
from receiver.ledger import LedgerUnavailable
from receiver.ledger.schema import deliveries
from receiver.wakeups import FLAG_TTL, flag_key
from tests.servers.deployment import Deployment
from tests.servers.gate import Gate, Mode
from tests.servers.postgres import PostgresProcess
from tests.servers.receiver import body
from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.valkey import ValkeyProcess
from tests.support.waiting import Stopwatch, eventually

pytestmark = pytest.mark.long

QUEUES = ("dispatch", "deliver:hook")
# Of the event that a rule is for: see _catch.
EVENT, DELIVERY = b"<event>", b"<delivery>"
RECEIPT = b'"delivery_id":"' + DELIVERY
PROMISE = 30.0
"""Seconds within which work goes on after a part's return."""


_STATES = sa.select(deliveries.c.state).where(deliveries.c.sink == "hook").distinct()


class Plant(Deployment):
    """A deployment with gates before both of its servers, and a consumer."""

    redis: ValkeyProcess
    redis_gate: Gate
    ledger_gate: Gate
    consumer: ScriptedServer
    other_consumer: ScriptedServer
    number = 0

    def content(self, sink: str = "hook") -> bytes:
        """The body of a run that no other test has, for one of the two sinks."""
        Plant.number += 1
        return body(Plant.number, title=sink)

    def fresh_worker(self) -> None:
        """A worker that has come to rest after whatever befell the last one."""
        if "worker" in self.parts:
            self.kill_part("worker")
        self.redis_gate.forget()
        self.ledger_gate.forget()
        before = self.log_of("worker").count("worker.started")
        self.run("worker")
        eventually(lambda: self.log_of("worker").count("worker.started") > before)
        # What the last one held has been given back, and is done: it sets off no rule of a gate any more.
        eventually(self.is_at_rest)

    def is_at_rest(self) -> bool:
        """Whether nothing is on its way to the consumer. A ledger that does not answer says so of nothing."""
        if self.inbox():  # asked first: what leaves it is in the ledger by then
            return False
        try:
            # Not a list: what moves while it is read may be missing in its page.
            return set(self.ledger.read(lambda connection: connection.scalars(_STATES).all())) <= {"delivered"}
        except LedgerUnavailable:
            return False

    def seen(self, content: bytes) -> Counter[str]:
        """How often its consumer got this body, by key."""
        calls = [*self.consumer.calls, *self.other_consumer.calls]
        return Counter(call.headers["webhook-id"] for call in calls if call.body == content)

    def arrives(self, content: bytes, sink: str = "hook") -> Stopwatch:
        """Wait until the consumer has it under its key, and the ledger says delivered; what measured how long."""
        watch = Stopwatch()
        key = delivery_id(event_id("skyvern", content), sink)
        eventually(lambda: self.seen(content)[key])
        eventually(lambda: self.state(content) == "delivered")
        assert set(self.seen(content)) == {key}
        return watch

    def state(self, content: bytes) -> str:
        """What the ledger says of its delivery, or "" when there is none."""
        found = self.deliveries(event_id=event_id("skyvern", content))
        return str(found[0]["state"]) if found else ""

    def inbox(self) -> int:
        with contextlib.closing(self.redis.connect()) as client:
            return int(client.xlen("runhook:inbox"))


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresProcess) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    valkey = ValkeyProcess(folder / "valkey").start()
    redis_gate, ledger_gate = Gate(valkey.port), Gate(postgres.port)
    consumer, other_consumer = ScriptedServer(), ScriptedServer()
    url = f"postgresql+psycopg://postgres@127.0.0.1:{ledger_gate.port}/{postgres.create_database()}"
    retry = {"attempts": 50, "first": 0.2, "factor": 1.5, "max": 2}
    sinks: dict[str, dict[str, Any]] = {
        name: {"type": "http", "url": server.url, "timeout": 20, "retry": retry}
        for name, server in (("hook", consumer), ("other", other_consumer))
    }
    routes = [{"name": name, "when": {"title": name}, "to": [name]} for name in sinks]
    it = Plant(folder / "deployment", f"redis://127.0.0.1:{redis_gate.port}/0", url, {"sinks": sinks, "routes": routes})
    it.redis, it.redis_gate, it.ledger_gate = valkey, redis_gate, ledger_gate
    it.consumer, it.other_consumer = consumer, other_consumer
    try:
        it.run("clock")
        it.start()
        yield it
    finally:
        it.end()
        for each in (redis_gate, ledger_gate, consumer, other_consumer):
            each.close()
        valkey.kill()
    assert "Traceback" not in it.log + it.log_of("worker") + it.log_of("clock")


# --- The worker, killed in a probe and with a claim


@dataclass
class Aftermath:
    """Bodies by what was going on with them when the worker was killed, or its connection cut."""

    plant: Plant
    probing: list[bytes] = field(default_factory=list)
    claimed: bytes = b""
    over: Stopwatch = field(default_factory=Stopwatch)


@pytest.fixture(scope="module")
def aftermath(plant: Plant) -> Aftermath:
    """All of it done one after the other."""
    it = Aftermath(plant)
    # A sink whose breaker is open, and a probe that is under way when the worker is killed
    plant.fresh_worker()
    plant.other_consumer.default = Reply(503)
    it.probing = [plant.content("other") for _ in range(8)]
    plant.acked(*it.probing)
    eventually(lambda: "breaker.open lane=other" in plant.log_of("worker"))
    plant.other_consumer.default = Reply(delay=15)
    calls = len(plant.other_consumer.calls)
    eventually(lambda: len(plant.other_consumer.calls) > calls)
    # A claim that was committed, and whose worker does not know it
    it.claimed = _catch(plant, plant.ledger_gate, b"COMMIT", "cut", after=DELIVERY)
    plant.other_consumer.default = Reply()
    plant.fresh_worker()
    it.over = Stopwatch()
    return it


def _catch(plant: Plant, gate: Gate, pattern: bytes, mode: Mode, after: bytes = b"") -> bytes:
    """Send an event, and return when it has come to that point. The worker is still there, and held.

    EVENT and DELIVERY in `pattern` and `after` are its own ids: others set off no rule.
    """
    content = plant.content()
    event = event_id("skyvern", content)
    ids = {EVENT: event.encode(), DELIVERY: delivery_id(event, "hook").encode()}
    for name, own in ids.items():
        pattern, after = pattern.replace(name, own), after.replace(name, own)
    caught = gate.catch(pattern, mode, after=after)
    plant.acked(content)
    caught.wait()
    return content


def test_claim_with_a_lost_commit_response_is_released(aftermath: Aftermath) -> None:
    aftermath.plant.arrives(aftermath.claimed)
    assert aftermath.plant.seen(aftermath.claimed).total() == 1


def test_probe_of_a_killed_worker_is_made_by_another(aftermath: Aftermath) -> None:
    for content in aftermath.probing:
        aftermath.plant.arrives(content, "other")
    aftermath.over.at_most(PROMISE)


# --- Everything else


@pytest.fixture
def running(plant: Plant) -> Iterator[Plant]:
    """The plant with a fresh worker, and nothing held afterwards."""
    plant.fresh_worker()
    yield plant
    plant.redis_gate.forget()
    plant.ledger_gate.forget()
    plant.consumer.script.clear()


@pytest.mark.parametrize("first", [EVENT, RECEIPT], ids=["dispatch", "settlement"])
def test_lost_commit_response_loses_and_doubles_nothing(running: Plant, first: bytes) -> None:
    content = _catch(running, running.ledger_gate, b"COMMIT", "cut", after=first)
    running.arrives(content).at_most(PROMISE)
    assert running.seen(content).total() == 1


def test_send_that_ends_in_a_ledger_outage_is_settled_later(running: Plant) -> None:
    # Given a send under way, with nothing else to do for its sink
    content = running.content()
    ends = threading.Event()
    running.consumer.script += [Reply(until=ends)]
    running.acked(content)
    eventually(lambda: running.seen(content).total() == 1)
    # When the ledger is away as it ends, and then back
    with running.ledger_gate.shut():
        ends.set()
        eventually(lambda: "deliver.paused sink=hook" in running.log_of("worker"))
    # Then it need not be sent a second time
    watch = running.arrives(content)
    print(f"{watch.seconds:.1f} s from the ledger's return to delivered")
    assert running.seen(content).total() == 1


def test_redis_may_lose_everything_after_dispatch(running: Plant) -> None:
    first, second = running.content(), running.content()
    running.acked(first)
    running.arrives(first)
    eventually(lambda: running.inbox() == 0)
    with contextlib.closing(running.redis.connect()) as client:
        client.flushall()  # its job lingers on the stream that is gone now, group and flags with it
    running.acked(second)
    watch = running.arrives(second)
    print(f"{watch.seconds:.1f} s from FLUSHALL to the next delivery")
    assert running.seen(second).total() == 1


def test_lost_wake_ups_cost_seconds_only(running: Plant) -> None:
    # Given raised flags whose wake-ups are lost, and no job that lingers
    with contextlib.closing(running.redis.connect()) as client:
        eventually(lambda: not any(client.exists(flag_key(queue)) for queue in QUEUES))
        for queue in QUEUES:
            client.set(flag_key(queue), "a wake-up that was lost", ex=FLAG_TTL)
        # When an event comes
        content = running.content()
        running.acked(content)
        assert client.exists(*map(flag_key, QUEUES)) == len(QUEUES)
        for queue in QUEUES:
            client.expire(flag_key(queue), 1)
    # Then the clock wakes for it as soon as the flags have lapsed
    watch = running.arrives(content)
    print(f"{watch.seconds:.1f} s with the wake-ups of both queues lost")
