"""The ledger and the sink `database` behind PgBouncer in transaction mode, where server connections change hands.

It needs `pgbouncer` 1.21 or later on PATH, which no package index has. Elsewhere it is skipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from tests.servers.deployment import Deployment
from tests.servers.pgbouncer import POOL, PgBouncer
from tests.servers.postgres import PostgresProcess
from tests.servers.receiver import body

pytestmark = [pytest.mark.long, pytest.mark.longest]

RUNS = 150
# What a transaction of Runhook sets. Another client of the pool must not get it.
SETTINGS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "TimeZone")


# 0: PgBouncer knows no prepared statements, so using one fails. 100: it prepares them on each server connection.
@pytest.mark.parametrize("max_prepared_statements", [0, 100])
def test_each_run_gets_its_row_behind_pgbouncer(
    max_prepared_statements: int,
    redis_url: str,
    postgres: PostgresProcess,
    postgres_url: str,
    pgbouncer_factory: Callable[[PostgresProcess, int], PgBouncer],
    deployment: Callable[..., Deployment],
) -> None:
    # Given a receiver, a worker and a clock, of which each reaches PostgreSQL only through the pool
    name = sa.make_url(postgres_url).database or ""
    pool = pgbouncer_factory(postgres, max_prepared_statements)
    sinks = {each: {"type": "database", "url": pool.url(name), "table": each, "concurrency": 8} for each in "ab"}
    it = deployment(redis_url, pool.url(name), sinks=sinks, routes=[{"name": "all", "to": ["a", "b"]}])
    it.start()
    it.run("worker")
    it.run("clock")
    with contextlib.closing(pool.connect(name)) as other, contextlib.closing(postgres.connect(name)) as direct:
        before = settings(direct)

        # When webhooks come in several batches, each of them twice
        for first in range(0, RUNS, 50):
            bodies = [body(number) for number in range(first, first + 50)]
            with ThreadPoolExecutor(8) as senders:
                assert {answer.status_code for answer in senders.map(it.post, bodies * 2)} == {202}
            it.all_delivered(2 * (first + 50))

        # Then server connections changed hands
        clients, servers = pool.connections("CLIENTS", name), pool.connections("SERVERS", name)
        assert len(servers) <= POOL < len(clients)
        # And each run has one row with its output in each table, by one attempt
        for table in "ab":
            found = direct.execute(f"SELECT run_id, output->>'n' FROM {table} ORDER BY run_id".encode()).fetchall()
            assert found == [(f"tsk_{number:06d}", str(number)) for number in range(RUNS)]
        assert {each["attempts"] for each in it.deliveries()} == {1}
        # And other clients of the pool get connections without Runhook's settings
        assert [settings(other) for _ in range(3 * POOL)] == [before] * 3 * POOL
        assert "prepared statement" not in it.log + it.log_of("worker") + it.log_of("clock")


def settings(connection: psycopg.Connection) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT name, setting FROM pg_settings WHERE name = ANY (%s) ORDER BY name", [list(SETTINGS)]
    ).fetchall()
