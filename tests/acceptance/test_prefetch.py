"""A worker is killed with deliveries prefetched: the ledger tells what may have been sent from what never started."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from receiver.ledger.schema import attempts, deliveries
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.support.ledger import new_event, record, with_tables
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

SLOTS = 2
COUNT = 200


def test_what_a_killed_worker_had_prefetched_was_an_attempt_only_if_it_had_started(
    deployment: Callable[..., Deployment], redis_url: str
) -> None:
    with ScriptedServer() as consumer:
        # Given a worker whose sink answers fast, so that it has deliveries prefetched
        it = deployment(redis_url, sinks={"hook": {"type": "http", "url": consumer.url, "concurrency": SLOTS}})
        with_tables(it.ledger)
        fast = [Reply(delay=0.1)] * COUNT
        consumer.script += fast
        record(it.ledger, *(new_event(f"tsk_{number}", "hook") for number in range(COUNT)))
        it.run("worker", first="from receiver.delivery import prefetch; prefetch.FAST = 60.0")  # on any machine
        eventually(lambda: len(consumer.requests) > 10)

        def kill_in_the_middle(connection: sa.Connection) -> bool:
            """While nobody else can write: what starts now starts without the ledger's knowing."""
            before, go_on = len(consumer.requests), threading.Event()
            consumer.script[:] = [Reply(until=go_on)] * COUNT  # each slot is given one of them, and then no more
            arrived = {request.headers["webhook-id"] for request in consumer.requests}
            enough = sum(taken and each not in arrived for each, taken in claims_in(connection).items()) > 2 * SLOTS
            if not enough:
                consumer.script[:] = fast
                go_on.set()
                return False
            eventually(lambda: len(consumer.requests) >= before + SLOTS)
            it.kill_part("worker")
            return True

        # When it is killed, some of them started and some not
        eventually(lambda: it.ledger.write(kill_in_the_middle))
        arrived = Counter(request.headers["webhook-id"] for request in consumer.requests)
        claims = claims_of(it)
        started = {each for each, prefetched in claims.items() if prefetched and each in arrived}
        unstarted = {each for each, prefetched in claims.items() if prefetched and each not in arrived}
        assert started, claims
        assert unstarted, claims
        # And the clock finds it dead, with no worker that would try again
        it.run("clock")
        eventually(lambda: not claims_of(it))
        # Then what never started is due as if nobody had ever claimed it, and the rest says what is not known
        rows = {row["id"]: row for row in it.deliveries()}
        tried = lapsed(it)
        untried = {each for each in unstarted if rows[each]["attempts"] == 0}
        assert len(unstarted - untried) <= SLOTS  # may have started, and not have come to the consumer any more
        assert {rows[each]["state"] for each in claims} == {"queued"}
        assert tried.keys() == claims.keys() - untried
        assert all(reason.endswith("ended while sending: it may have arrived") for reason in tried.values())
        # And in the end each request that came has an attempt
        consumer.script.clear()
        it.run("worker")
        it.all_delivered(COUNT)
        rows = {row["id"]: row for row in it.deliveries()}
        arrived = Counter(request.headers["webhook-id"] for request in consumer.requests)
        assert all(arrived[each] <= rows[each]["attempts"] for each in rows)
        assert {each for each, count in arrived.items() if count > 1} <= tried.keys()


def claims_of(it: Deployment) -> dict[str, bool]:
    return it.ledger.read(claims_in)


def claims_in(connection: sa.Connection) -> dict[str, bool]:
    """By delivery that is claimed, whether it is prefetched."""
    query = sa.select(deliveries.c.id, deliveries.c.prefetched).where(deliveries.c.state == "sending")
    return {row[0]: row[1] for row in connection.execute(query)}


def lapsed(it: Deployment) -> dict[str, str]:
    """By delivery, why an attempt of it has no other end."""
    query = sa.select(attempts.c.delivery_id, attempts.c.reason).where(attempts.c.outcome == "lapsed")
    return {row[0]: row[1] for row in it.ledger.read(lambda connection: connection.execute(query).all())}
