"""A dispatcher that hands on and a deliverer that waits for it, in one process: each in a thread of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from receiver import wakeups
from receiver.config.destinations import RetryPolicy, RouteConfig
from receiver.delivery.deliverer import Deliverer
from receiver.dispatch.recorder import EventRecorder
from receiver.domain.event import Event, event_id
from receiver.domain.redaction import Redactor
from receiver.ledger import Ledger
from receiver.ledger.deliveries import claims
from receiver.ledger.schema import attempts
from receiver.routing.router import Router
from receiver.runtime.handover import Handover, Offer
from receiver.runtime.process import readable
from receiver.telemetry.workers import DispatchCounter
from tests.support.scripted_sink import ScriptedSink, rows
from tests.support.waiting import eventually


def make_deliverer(
    url: str, redis_url: str, sink: Any, handover: Handover, owner: str = "w", **options: Any
) -> Deliverer:
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    return Deliverer(Ledger(url), sink, RetryPolicy(), 8, connection, owner, handover=handover, **options)


def address(ledger: Ledger) -> str:
    return str(ledger.url.render_as_string(hide_password=False))


@contextmanager
def waiting(deliverer: Deliverer, handover: Handover | None = None) -> Iterator[None]:
    """Run the deliverer's jobs, one after the other, from when it waits with an offer out."""
    leaving = threading.Event()

    def work() -> None:
        while not leaving.is_set():
            deliverer.run(leaving.is_set)
        deliverer.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        if handover:
            eventually(lambda: offered(handover))
        yield
    finally:
        leaving.set()
        _nudge(deliverer)  # what it waits for longer than a test takes shall not hold up the next one
        thread.join()


def _nudge(deliverer: Deliverer) -> None:
    where = deliverer._redis.connection_pool.connection_kwargs
    with redis.Redis(connection_pool=redis.ConnectionPool(**where)) as client:
        client.lpush(wakeups.nudge_key(deliverer._queue), "")
        client.connection_pool.disconnect()


def offered(handover: Handover, seconds: float = 0) -> bool:
    return bool(readable([handover._offers[1].fileno()], seconds))


EVERYTHING = RouteConfig(name="everything", to=["ops"])


def make_recorder(
    ledger: Ledger, redis_url: str, handover: Handover | None, *routes: RouteConfig, redact: Sequence[str] = ()
) -> EventRecorder:
    return EventRecorder(
        ledger,
        Router(routes or [EVERYTHING]),
        Redactor(redact),
        DispatchCounter(redis.Redis.from_url(redis_url)),
        handovers={"ops": handover} if handover else {},
    )


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


def count_claims(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one with each claim from now on."""
    made: list[int] = []
    claim = claims.claim

    def counting(*arguments: Any, **named: Any) -> claims.Claims:
        made.append(1)
        return claim(*arguments, **named)

    monkeypatch.setattr(claims, "claim", counting)
    return made


class Killed(BaseException):
    """What a process does no more: nothing of it runs after this. Where it is really killed: tests/chaos."""


def kill(*_: object, **_more: object) -> None:
    raise Killed


class OfferTaken(Handover):
    """A dispatcher's end of a handover with the offer in hand: between two waits of the deliverer there is none.

    `before_answer`: what happens between the COMMIT and the answer.
    """

    def __init__(self, it: Handover, before_answer: Callable[[], object] = lambda: None) -> None:
        self._it = it
        self._offer: Offer = eventually(it.take)
        self._before_answer = before_answer

    def take(self) -> Offer:
        return self._offer

    def hand_on(self, *answer: Any, **more: Any) -> None:
        self._before_answer()
        self._it.hand_on(*answer, **more)
