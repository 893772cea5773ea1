"""Settlements of a sink for which enough is prefetched: they wait for the next claim, for no slot waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from handlers import Delivery, Receipt, Refused
from receiver.config.destinations import RetryPolicy
from receiver.delivery.deliverer import Deliverer
from receiver.delivery.sender import SenderPool
from receiver.delivery.settlement import Settlement
from receiver.ledger import Ledger
from tests.support.handing_on import address
from tests.support.ledger import new_event, record
from tests.support.scripted_sink import ScriptedSink, accept, rows
from tests.support.waiting import PATIENCE, eventually

SLOTS = 2
# What one claim takes then, and how many have started ahead of the next one: with four prefetched for each slot.
QUEUED = 4 * SLOTS
NEXT_CLAIM = QUEUED // 2
DELIVERIES = 3 * QUEUED


class GatedSink(ScriptedSink):
    """Answers as many as it is allowed to. `trouble`: its answer to the first, if any."""

    def __init__(self, trouble: Exception | None = None) -> None:
        super().__init__(self._answer, timeout=4 * PATIENCE)
        self.allowed = threading.Semaphore(0)
        self._trouble = trouble

    def _answer(self, delivery: Delivery) -> Receipt:
        if not self.allowed.acquire(timeout=PATIENCE):
            raise Refused("the test did not go on")
        if self._trouble and delivery.key == self.seen[0].key:
            raise self._trouble
        return accept(delivery)


@contextmanager
def delivering(ledger: Ledger, redis_url: str, sink: GatedSink, **options: Any) -> Iterator[Deliverer]:
    """Deliver in a thread, by a deliverer that prefetches and waits for ends. Lets everything go at the end."""
    connection = redis.Redis.from_url(redis_url, socket_timeout=10)
    deliverer = Deliverer(
        Ledger(address(ledger)), sink, RetryPolicy(), SLOTS, connection, "w", idle_wait=0.02, **options
    )
    deliverer._senders.typical_seconds = 0.0  # as after a few sends that were answered fast
    record(ledger, *(new_event(f"tsk_{number}", "ops") for number in range(DELIVERIES)))
    thread = threading.Thread(target=lambda: deliverer.run(lambda: False))
    thread.start()
    try:
        eventually(lambda: len(sink.seen) == SLOTS and deliverer._senders._bell is not None)
        yield deliverer
    finally:
        sink.allowed.release(DELIVERIES)
        thread.join(PATIENCE)
        deliverer.close()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sends each settlement has settled."""
    found: list[int] = []
    settle = Settlement.settle

    def counting(self: Settlement, ledger: Ledger, tasks: Any, *arguments: Any) -> Any:
        found.append(len(tasks))
        return settle(self, ledger, tasks, *arguments)

    monkeypatch.setattr(Settlement, "settle", counting)
    monkeypatch.setattr("receiver.delivery.prefetch.FAST", 1e6)  # a busy machine makes each send slow
    monkeypatch.setattr("receiver.delivery.deliverer.CLAIM_AGAIN", 1e6)
    return found


@pytest.fixture
def patiently(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return lambda seconds: monkeypatch.setattr("receiver.delivery.deliverer.GATHER_AHEAD", seconds)


def delivered(ledger: Ledger) -> int:
    return len(rows(ledger, state=("delivered",)))


def test_what_has_ended_is_settled_when_more_is_to_be_claimed(
    ledger: Ledger, redis_url: str, settled: list[int], patiently: Callable[[float], None]
) -> None:
    patiently(1e6)
    sink = GatedSink()
    with delivering(ledger, redis_url, sink) as deliverer:
        # Given sends that were accepted, while enough is prefetched and their deliverer is asleep
        eventually(lambda: deliverer._senders._waits)
        sink.allowed.release(NEXT_CLAIM - 1)
        eventually(
            lambda: len(sink.seen) == SLOTS + NEXT_CLAIM - 1 and len(deliverer._senders._ended) == NEXT_CLAIM - 1
        )
        # Then nobody was woken to settle them
        assert (settled, deliverer._senders._waits) == ([], True)
        # When one more has started, so that it is time for a claim
        sink.allowed.release()
        # Then all are settled in one transaction
        eventually(lambda: delivered(ledger) == NEXT_CLAIM)
        assert settled == [NEXT_CLAIM]
    assert delivered(ledger) == len(sink.seen) == DELIVERIES


def test_a_send_that_takes_longer_is_waited_for_asleep(
    ledger: Ledger,
    redis_url: str,
    settled: list[int],
    patiently: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    wait = SenderPool.wait

    def noting(self: SenderPool, longest: float, *arguments: Any, **named: Any) -> set[int]:
        waits.append(longest)
        return wait(self, longest, *arguments, **named)

    monkeypatch.setattr(SenderPool, "wait", noting)
    patiently(1e-6)
    with delivering(ledger, redis_url, GatedSink()):
        # Given sends that have taken longer than a settlement waits for others, while enough is prefetched
        # Then who waits for them sleeps until the claims are to be renewed
        eventually(lambda: waits[-1] > 1)


@pytest.mark.parametrize(
    ("seconds", "options", "trouble"),
    [
        pytest.param(0.01, {}, None, id="after a while"),
        pytest.param(1e6, {"gather": 0.0}, None, id="at once if other sinks wait for it"),
        pytest.param(1e6, {}, Refused("no"), id="at once if it was not accepted"),
    ],
)
def test_what_has_ended_is_settled_though_enough_is_prefetched(
    ledger: Ledger,
    redis_url: str,
    settled: list[int],
    patiently: Callable[[float], None],
    seconds: float,
    options: dict[str, Any],
    trouble: Exception | None,
) -> None:
    patiently(seconds)
    sink = GatedSink(trouble)
    with delivering(ledger, redis_url, sink, **options):
        sink.allowed.release()
        eventually(lambda: len(rows(ledger, state=("dead",) if trouble else ("delivered",))) == 1)
        assert settled == [1]
