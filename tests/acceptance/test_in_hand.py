"""A worker is killed with deliveries in hand: the ledger tells what may have been sent from what was never begun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import sqlalchemy as sa

from receiver.ledger.deliveries.claims import IN_HAND
from receiver.ledger.migrate import ensure_schema
from receiver.ledger.schema import attempts, deliveries
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.support.ledger import new_event, record
from tests.support.waiting import eventually

PLACES = 2
COUNT = 60


def test_what_was_in_hand_of_a_killed_worker_was_an_attempt_only_if_it_had_begun(
    deployment: Callable[..., Deployment], redis_url: str
) -> None:
    with ScriptedServer() as consumer:
        # Given a worker whose sink answers fast, so that it has deliveries in hand
        it = deployment(redis_url, sinks={"hook": {"type": "http", "url": consumer.url, "concurrency": PLACES}})
        ensure_schema(it.ledger)
        consumer.script += [Reply(delay=0.1)] * COUNT
        record(it.ledger, *(new_event(f"tsk_{number}", "hook") for number in range(COUNT)))
        it.run("worker")
        eventually(lambda: len(consumer.requests) > 10)

        def kill_in_the_middle(connection: sa.Connection) -> None:
            """While nobody else can write: what begins now begins without the ledger's knowing."""
            seen = len(consumer.requests)
            eventually(lambda: len(consumer.requests) >= seen + 2 * PLACES)
            it.kill_part("worker")

        # When it is killed, some of them begun and some not
        it.ledger.write(kill_in_the_middle)
        arrived = Counter(request.headers["webhook-id"] for request in consumer.requests)
        claims = claims_of(it)
        begun = {each for each, claim in claims.items() if claim.endswith(IN_HAND) and each in arrived}
        unbegun = {each for each, claim in claims.items() if claim.endswith(IN_HAND) and each not in arrived}
        assert begun, claims
        assert unbegun, claims
        # And the clock finds it dead, with no worker that would try again
        it.run("clock")
        eventually(lambda: not claims_of(it))
        # Then what was never begun is due as if nobody had ever had it, and the rest says what is not known
        rows = {row["id"]: row for row in it.deliveries()}
        tried = lapsed(it)
        untried = {each for each in unbegun if rows[each]["attempts"] == 0}
        assert len(unbegun - untried) <= PLACES  # may have begun, and not have come to the consumer any more
        assert {rows[each]["state"] for each in claims} == {"queued"}
        assert tried.keys() == claims.keys() - untried
        assert all(reason.endswith("ended while sending: it may have arrived") for reason in tried.values())
        # And in the end each request that came is told by an attempt
        consumer.script.clear()
        it.run("worker")
        it.all_delivered(COUNT)
        rows = {row["id"]: row for row in it.deliveries()}
        arrived = Counter(request.headers["webhook-id"] for request in consumer.requests)
        assert all(arrived[each] <= rows[each]["attempts"] for each in rows)
        assert {each for each, count in arrived.items() if count > 1} <= tried.keys()


def claims_of(it: Deployment) -> dict[str, str]:
    query = sa.select(deliveries.c.id, deliveries.c.claim).where(deliveries.c.state == "sending")
    return {row[0]: row[1] for row in it.ledger.read(lambda connection: connection.execute(query).all())}


def lapsed(it: Deployment) -> dict[str, str]:
    """By delivery, why an attempt of it has no other end."""
    query = sa.select(attempts.c.delivery_id, attempts.c.reason).where(attempts.c.outcome == "lapsed")
    return {row[0]: row[1] for row in it.ledger.read(lambda connection: connection.execute(query).all())}
