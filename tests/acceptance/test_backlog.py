"""A sink comes back that was away while a long backlog grew behind its open breaker: all of it is delivered."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa

from receiver.domain.breaker import THRESHOLD, Lane
from receiver.ledger.deliveries import lanes
from receiver.ledger.schema import events
from tests.servers.deployment import Deployment
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.support.backlog import fill
from tests.support.ledger import NOW, with_tables
from tests.support.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.longest]

BACKLOG = 20_000
BODY = '{"run_id":"tsk_@","run_type":"task_v1","status":"completed","output":{"n":@}}'


def test_a_sink_with_a_long_backlog_recovers_from_its_breaker(
    deployment: Callable[..., Deployment], redis_url: str, postgres: PostgresProcess, postgres_url: str
) -> None:
    # Given a sink whose database can't be reached, and a backlog that came meanwhile
    name = sa.make_url(postgres_url).database
    gate = Gate(postgres.port)
    it = deployment(
        redis_url,
        postgres_url,
        sinks={"results": {"type": "database", "url": f"postgresql://postgres@127.0.0.1:{gate.port}/{name}"}},
        routes=[{"name": "all", "to": ["results"]}],
    )
    with_tables(it.ledger)
    now = time.time()
    fill(it.ledger, BACKLOG, "results", events=BACKLOG, late=now - NOW, body=BODY)
    away = Lane("results", "results", breaker="open", failures=THRESHOLD, until=now, opened_at=now - 60)

    def prepare(connection: sa.Connection) -> None:
        connection.execute(sa.update(events).values(recorded_at=now, received_at=now))
        lanes.put(connection, away, now)

    it.ledger.write(prepare)
    with gate.shut():
        it.run("clock")
        it.run("worker", "--only", "results")

        # When it is probed in vain
        def failures() -> int:
            lane = it.ledger.read(lambda connection: lanes.find(connection, "results"))
            return lane.failures if lane and lane.breaker == "open" else 0

        eventually(lambda: failures() > THRESHOLD, what=lambda: it.log_of("worker"))
        # Then that was one delivery, and the others spent no attempt
        assert it.states() == {"queued": BACKLOG - 1, "waiting": 1}
    # And when it is back, all of it is delivered, and each delivery has its row
    it.all_delivered(BACKLOG)
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as database:
        assert database.execute("SELECT count(*) FROM skyvern_runs").fetchone() == (BACKLOG,)
    gate.close()
