"""Hosts that vanish, networks that hold: neither end of a connection to PostgreSQL waits for long, or holds a lock."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import redis
import sqlalchemy as sa

from handlers import Delivery, Receipt, Sink, SinkOptions
from handlers.support.postgresql import TimeLimits
from receiver.config.destinations import RetryPolicy
from receiver.delivery.runner import SinkRunner
from receiver.domain.time_limits import CLAIM
from receiver.ledger import Ledger, LedgerUnavailable
from receiver.ledger.deliveries import claims, recovery
from receiver.ledger.deliveries.claimed import Claimed
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import claim, new_event, record
from tests.support.waiting import PATIENCE, Stopwatch, eventually

# More than the buffers of both ends and of what is between them hold.
LARGE = "x" * (6 << 20)


class NeverSent(Sink[SinkOptions]):
    """A sink that nothing reaches."""

    def send(self, delivery: Delivery) -> Receipt:
        raise AssertionError(delivery)


@pytest.fixture
def gate(postgres: PostgresProcess) -> Iterator[Gate]:
    with Gate(postgres.port) as it:
        yield it


@pytest.fixture
def through(gate: Gate, postgres_ledger: Ledger) -> Iterator[Callable[..., Ledger]]:
    """`through(limits)`: the ledger, by way of the gate."""
    with contextlib.ExitStack() as stack:

        def make(limits: TimeLimits | None = None) -> Ledger:
            url = postgres_ledger.url.set(port=gate.port).render_as_string(hide_password=False)
            ledger = Ledger(url, limits=limits)
            stack.callback(ledger.close)
            stack.callback(gate.forget)
            return ledger

        yield make


def in_thread(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(LedgerUnavailable, psycopg.Error):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_server_gives_up_a_client_that_stopped_reading(
    gate: Gate, through: Callable[..., Ledger], postgres_ledger: Ledger
) -> None:
    # Given a transaction that holds a lock, and a host that vanishes while it is sent a large answer
    ledger = through(TimeLimits(statement=60, lock=60, idle=60, peer=1))

    def lock_and_read(connection: sa.Connection) -> object:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4711)")
        return connection.exec_driver_sql(f"SELECT repeat('x', {len(LARGE)}) FROM generate_series(1, 4)").all()

    held = gate.catch(b"repeat", "after")
    thread = in_thread(lambda: ledger.write(lock_and_read))
    held.wait()
    # When others wait for the lock, then they have it once the server gives up, not after 15 minutes of TCP
    free = sa.text("SELECT pg_try_advisory_xact_lock(4711)")
    assert not postgres_ledger.write(lambda it: it.execute(free).scalar())
    eventually(lambda: postgres_ledger.write(lambda it: it.execute(free).scalar()))
    gate.forget()
    thread.join(60)


def test_client_replaces_a_connection_that_is_held(gate: Gate, through: Callable[..., Ledger]) -> None:
    # Given a network that holds an answer, on which TCP sees nothing wrong
    ledger = through(TimeLimits(statement=0.3, margin=0.2))
    ledger.read(lambda it: it.exec_driver_sql("SELECT 1").scalar())
    held = gate.catch(b"SELECT 4712", "after")
    # When it is asked, then the question is put again on another connection
    watch = Stopwatch()
    assert ledger.read(lambda it: it.exec_driver_sql("SELECT 4712").scalar()) == 4712
    watch.at_most(10)
    held.wait(0)


def test_client_with_a_deadline_does_not_retry_a_held_connection(gate: Gate, through: Callable[..., Ledger]) -> None:
    # Given a network that holds an answer
    ledger = through()
    ledger.read(lambda it: it.exec_driver_sql("SELECT 1").scalar())
    gate.catch(b"SELECT 4713", "after")
    # When somebody asks who has less time than a statement, then it hears that the ledger does not answer
    watch = Stopwatch()
    with pytest.raises(LedgerUnavailable, match="did not respond in time"):
        ledger.read(lambda it: it.exec_driver_sql("SELECT 4713").scalar(), 0.3)
    watch.at_most(3)
    # And who asks next has the usual time
    assert ledger.read(lambda it: it.exec_driver_sql("SELECT pg_sleep(0.4), 4713").all())


def test_host_vanishing_while_reading_bodies_blocks_no_claim(
    gate: Gate, through: Callable[..., Ledger], postgres_ledger: Ledger, redis_url: str
) -> None:
    # Given large bodies for a sink with few places, and a worker whose connection holds what it has claimed
    bodies = [new_event(f"tsk_{n}", "ops", large=LARGE) for n in range(4)]
    record(postgres_ledger, *bodies, now=time.time())
    services: Any = None
    sink = NeverSent("ops", SinkOptions(), services)
    client = redis.Redis.from_url(redis_url, socket_timeout=10)
    vanishing = SinkRunner(through(), sink, RetryPolicy(), 2, client, "vanished")
    held = gate.catch(b"events.body, events.completion", "after")
    vanishing.start()
    held.wait()
    vanishing.stop()
    # When another worker claims at that moment, then nothing that the first one holds makes it wait
    watch = Stopwatch()

    def at_once(connection: sa.Connection) -> list[Claimed]:
        return claims.claim(connection, "ops", 9, "other", time.time())

    assert len(postgres_ledger.write(at_once)) == 2
    watch.at_most(4)
    # And what the first one has claimed comes back when its claim lapses
    later = time.time() + CLAIM + 1
    assert postgres_ledger.write(lambda it: recovery.lapse_claims(it, later)) == 4
    back = [
        claim(postgres_ledger, "ops", owner="other", now=later + 60) for _ in range(2)
    ]  # as many bytes as one takes
    assert [len(each) for each in back] == [2, 2]
    gate.forget()
    assert vanishing.join(time.monotonic() + PATIENCE)
    vanishing.close()
    client.close()
