"""A recorder that hands new deliveries to a runner of the same process, and what is to be said of these."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import redis
import sqlalchemy as sa

from handlers import Delivery, Receipt, Sink, SinkOptions
from receiver.config.destinations import RetryPolicy
from receiver.delivery.runner import SinkRunner
from receiver.dispatch.recorder import EventRecorder
from receiver.domain.event import Event, event_id
from receiver.domain.redaction import Redactor
from receiver.ledger import Ledger
from receiver.ledger.deliveries.claimed import Claimed
from receiver.ledger.schema import attempts
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router
from receiver.telemetry.workers import WorkerCounter
from tests.support import queries
from tests.support.waiting import PATIENCE, eventually

EVERYTHING = RouteConfig(name="everything", to=["ops"])
UNUSED: Any = None


class Taking(SinkRunner):
    """A runner with room for `places` that keeps what it is given, and sends nothing."""

    def __init__(self, owner: str = "w", places: int = 256) -> None:
        super().__init__(UNUSED, ScriptedSink(UNUSED), RetryPolicy(), 1, UNUSED, owner)
        self.places = places
        self.taken: list[Claimed] = []
        self.pokes = 0

    def room(self) -> int:
        return self.places

    def take(self, claimed: Sequence[Claimed]) -> None:
        self.taken += claimed

    def poke(self) -> None:
        self.pokes += 1


def make_recorder(
    ledger: Ledger, redis_url: str, *routes: RouteConfig, redact: Sequence[str] = (), **runners: SinkRunner
) -> EventRecorder:
    """`runners`: by sink."""
    counter = WorkerCounter(redis.Redis.from_url(redis_url))
    return EventRecorder(ledger, Router(routes or [EVERYTHING]), Redactor(redact), counter, runners=runners)


def address(ledger: Ledger) -> str:
    return str(ledger.url.render_as_string(hide_password=False))


def events(count: int = 1) -> list[Event]:
    bodies = [json.dumps({"run_id": f"tsk_{number}", "status": "completed"}).encode() for number in range(count)]
    return [Event(event_id("skyvern", body), "skyvern", body, time.time()) for body in bodies]


def all_delivered(ledger: Ledger, count: int = 1) -> bool:
    return [row["state"] for row in rows(ledger)] == ["delivered"] * count


def assert_sent_once_each(ledger: Ledger, sink: ScriptedSink, count: int = 1) -> None:
    assert sorted(each.key for each in sink.seen) == sorted(row["id"] for row in rows(ledger))
    assert [(row["attempts"], row["spent"]) for row in rows(ledger)] == [(1, 0)] * count
    made = ledger.read(lambda connection: connection.execute(sa.select(attempts.c.number, attempts.c.outcome)).all())
    assert [tuple(row) for row in made] == [(1, "accepted")] * count


def run_out(it: SinkRunner, stop: Callable[[], bool] | None = None) -> None:
    """Let a runner deliver until it is idle, or until `stop()`, while it is poked; then end it."""
    it.start()

    def done() -> bool:
        if stop is None:
            return it.idle
        it.poke()
        return stop()

    eventually(done)
    end(it)


def end(it: SinkRunner) -> None:
    it.stop()
    assert it.join(time.monotonic() + PATIENCE)
    it.close()


Answer = Callable[[Delivery], Receipt]
NO_SERVICES: Any = None


class ScriptedSink(Sink[SinkOptions]):
    """Answers as its script says, and remembers what it was sent."""

    def __init__(self, answer: Answer, timeout: float = 5) -> None:
        super().__init__("ops", SinkOptions(timeout=timeout), NO_SERVICES)
        self.answer = answer
        self.seen: list[Delivery] = []
        self.lock = threading.Lock()

    def send(self, delivery: Delivery) -> Receipt:
        with self.lock:
            self.seen.append(delivery)
        return self.answer(delivery)


class BatchSink(ScriptedSink):
    batch_size: ClassVar[int] = 50

    def __init__(self, answer: Answer, timeout: float = 5) -> None:
        super().__init__(answer, timeout)
        self.sizes: list[int] = []

    def send_many(self, deliveries: Sequence[Delivery]) -> list[Receipt | Exception]:
        self.sizes.append(len(deliveries))
        return super().send_many(deliveries)


def rows(ledger: Ledger, **wanted: Any) -> list[dict[str, Any]]:
    return ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter(**wanted)))


def accept(delivery: Delivery) -> Receipt:
    return Receipt(f"r-{delivery.run_id}", keys=("a", "b"), urls={"run.json": "https://x/run.json"})
