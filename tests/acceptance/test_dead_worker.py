"""A whole worker is killed, its supervisor included: what it held is free at once, and not when its claims run out.

Its sink takes one delivery at a time and holds all its slots, so until its claims are released nothing is sent.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.ledger.schema import attempts, deliveries
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.support.ledger import new_event, record, with_tables
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

SLOTS = 2


class Held(Deployment):
    """A deployment whose first worker hangs in as many sends as its sink has slots."""

    consumer: ScriptedServer
    claims: dict[str, float]
    """When the claim of each delivery runs out."""

    def start_and_hang(self) -> None:
        with_tables(self.ledger)
        self.consumer.script += [Reply(until=threading.Event())] * SLOTS
        record(self.ledger, *(new_event(f"tsk_{number}", "hook") for number in range(2 * SLOTS)))
        self.run("worker")
        eventually(lambda: len(self.consumer.requests) == SLOTS)

    def kill_worker(self, part: str = "worker") -> None:
        """kill -9. Its claims run out long after another worker has started, on any machine."""

        def work(connection: sa.Connection) -> None:
            longer = sa.update(deliveries).where(deliveries.c.state == "sending")
            connection.execute(longer.values(claim_until=deliveries.c.claim_until + 600))
            query = sa.select(deliveries.c.id, deliveries.c.claim_until).where(deliveries.c.state == "sending")
            self.claims = {row[0]: row[1] for row in connection.execute(query)}
            self.kill_part(part)  # here, where it can't renew them once more

        self.ledger.write(work)
        assert len(self.claims) == SLOTS

    def outcomes(self) -> dict[str, list[str]]:
        query = sa.select(attempts.c.delivery_id, attempts.c.outcome).order_by(attempts.c.number)
        found: dict[str, list[str]] = {}
        for delivery, outcome in self.ledger.read(lambda connection: connection.execute(query).all()):
            found.setdefault(delivery, []).append(outcome)
        return found

    def ended(self) -> dict[str, float]:
        """When each claim was released."""
        query = sa.select(attempts.c.delivery_id, attempts.c.ended_at).where(attempts.c.outcome == "lapsed")
        return {row[0]: row[1] for row in self.ledger.read(lambda connection: connection.execute(query).all())}


@pytest.fixture
def held(tmp_path: Any, redis_url: str) -> Any:
    with ScriptedServer() as consumer:
        sinks = {"hook": {"type": "http", "url": consumer.url, "timeout": 600, "concurrency": SLOTS}}
        it = Held(
            tmp_path / "it",
            redis_url,
            f"sqlite:///{tmp_path / 'ledger.db'}",
            {"sinks": sinks, "routes": [{"name": "all", "to": ["hook"]}], "allowed_addresses": ["127.0.0.1"]},
        )
        it.consumer = consumer
        yield it
        it.end()


@pytest.mark.parametrize("beside", [False, True], ids=["the next worker", "a worker beside it"])
def test_another_worker_releases_what_a_killed_one_held(held: Held, beside: bool) -> None:
    # Given a worker that is killed in the middle, and no clock that would take back what has lapsed
    held.start_and_hang()
    held.parts["first"] = held.parts.pop("worker")
    if beside:
        held.run("worker")
        eventually(lambda: held.states().get("delivered") == SLOTS)
    held.kill_worker("first")
    # When another starts, or has been running
    if not beside:
        held.run("worker")
    held.all_delivered(2 * SLOTS)
    # Then what was cut off is known as such, and was released before its claim ran out
    assert sorted(held.outcomes().values()) == [["accepted"]] * SLOTS + [["lapsed", "accepted"]] * SLOTS
    assert held.ended().keys() == held.claims.keys()
    assert all(held.ended()[each] < until for each, until in held.claims.items())
