"""A dispatcher whose events tests hand it directly, without an inbox."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import redis

from receiver.dispatch.dispatcher import PUT_BACK_FOR, Dispatcher
from receiver.dispatch.recorder import EventRecorder, Runner
from receiver.domain.event import Event
from receiver.domain.redaction import Redactor
from receiver.domain.run import Run
from receiver.inbox.reader import InboxReader
from receiver.ledger import Ledger
from receiver.routing.route import RouteConfig
from receiver.routing.router import Router
from receiver.telemetry.workers import WorkerCounter


def make_dispatcher(
    ledger: Ledger,
    router: Router,
    redactor: Redactor,
    reader: InboxReader,
    connection: redis.Redis,
    may_ask: Callable[[str], bool] = lambda _: False,
    runners: Mapping[str, Runner] = {},
    put_back_for: float = PUT_BACK_FOR,
) -> Dispatcher:
    recorder = EventRecorder(ledger, router, redactor, WorkerCounter(connection), may_ask, runners)
    return Dispatcher(ledger, recorder, reader, connection, put_back_for)


def dispatch(
    it: Dispatcher | EventRecorder,
    accepted: Collection[Event],
    parsed: Mapping[str, Run] = {},
    details: Mapping[str, Mapping[str, Any]] = {},
) -> list[str]:
    """Record events. Returns the sinks to wake."""
    recorder = it.recorder if isinstance(it, Dispatcher) else it
    return recorder.record(recorder.parse(accepted, parsed, details))


LABEL_ROUTES = [
    RouteConfig(name="everything", to=["results"]),
    RouteConfig(name="billing", when={"labels.team": "billing"}, to=["billing"]),
]


def make_labelled_dispatcher(ledger: Ledger, redis_url: str, name: str = "d1") -> Dispatcher:
    """Return a dispatcher by these routes; closing it closes the ledger."""
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    return make_dispatcher(ledger, Router(LABEL_ROUTES), Redactor([]), InboxReader(connection, name), connection)
