"""A ledger whose clock jumps ahead and back, one that is read-only, and one whose file is deleted or replaced."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest

from receiver.domain.breaker import THRESHOLD
from receiver.ledger import Ledger
from tests.servers.deployment import Deployment
from tests.servers.http import Reply, ScriptedServer
from tests.servers.postgres import PostgresProcess
from tests.servers.receiver import body
from tests.servers.valkey import ValkeyProcess
from tests.support import queries
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

Deployments = Callable[..., Deployment]
AHEAD = 7200.0
RESULTS = {"results": {"type": "database", "url": "sqlite:///${RUNHOOK_DATA}/results.db"}}
ROUTES = [{"name": "all", "to": ["results"]}]
# PostgreSQL's own function is shadowed by one that a table sets ahead.
FAST_CLOCK = """
CREATE TABLE public.ahead (seconds float8); INSERT INTO public.ahead VALUES (0);
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
 'SELECT pg_catalog.clock_timestamp() + make_interval(secs => seconds) FROM public.ahead';
"""


@contextlib.contextmanager
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def status(it: Deployment) -> tuple[int, dict[str, str]]:
    """The exit code of `runhook status`, and what each problem says."""
    done = it.call("status", "--json")
    return done.returncode, {each["code"]: each["what"] for each in json.loads(done.stdout)["problems"]}


@pytest.fixture(params=["postgresql", "sqlite"])
def fast_clock(
    request: pytest.FixtureRequest, tmp_path: Path, redis_url: str, deployment: Deployments
) -> Iterator[tuple[Deployment, Callable[[float], object], str, ScriptedServer]]:
    """A deployment; what sets the clock of its ledger ahead; Python that its processes run first; and its consumer."""
    with ScriptedServer() as consumer:
        config: dict[str, Any] = {
            "sinks": {"hook": {"type": "http", "url": consumer.url, "retry": {"first": "2s", "max": "4s"}}},
            "routes": [{"name": "all", "to": ["hook"]}],
            "allowed_addresses": ["127.0.0.1"],
        }
        if request.param == "sqlite":
            offset = tmp_path / "ahead"
            offset.write_text("0")
            first = (
                f"import time\nfrom pathlib import Path\ntrue_time, ahead = time.time, Path({str(offset)!r})\n"
                "time.time = lambda: true_time() + float(ahead.read_text() or 0)"
            )
            it = deployment(redis_url, **config)
            yield it, lambda seconds: offset.write_text(str(seconds)), first, consumer
            return
        url = request.getfixturevalue("postgres_url")
        it = deployment(redis_url, url, **config)
        with admin(url) as connection:
            connection.execute(FAST_CLOCK.encode())
            name = connection.info.dbname
            connection.execute(f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog'.encode())

            def ahead(seconds: float) -> None:
                connection.execute("UPDATE public.ahead SET seconds = %s", [seconds])

            try:
                yield it, ahead, "", consumer
            finally:
                connection.execute(f'ALTER DATABASE "{name}" RESET search_path'.encode())


def test_waits_set_by_a_fast_clock_end_once_it_is_right(
    fast_clock: tuple[Deployment, Callable[[float], object], str, ScriptedServer],
) -> None:
    it, set_ahead, first, consumer = fast_clock
    # Given a sink that is down while the clock of the ledger's database is two hours ahead
    consumer.script = [Reply(503)] * 10_000
    set_ahead(AHEAD)
    it.run("worker", first=first)
    it.run("clock", first=first)
    it.start()
    count = THRESHOLD + 5
    it.acked(*(body(number) for number in range(count)))
    eventually(lambda: sum(it.states().values()) == count)
    eventually(lambda: "sink_down" in status(it)[1])
    assert min(row["updated_at"] for row in it.deliveries()) > time.time() + AHEAD / 2
    # When the clock is set back, and the sink is well
    set_ahead(0.0)
    consumer.script = []
    # Then all is delivered, in time and not two hours later
    it.all_delivered(count)
    # And the command, the log and the audit tell of it
    code, problems = status(it)
    assert (code, "was ahead" in problems["clock_was_ahead"]) == (1, True)
    assert "clock.corrected" in it.log_of("clock")
    assert [each["action"] for each in it.json("audit")].count("clock.correct") >= 1


def test_read_only_postgresql_is_named_everywhere(
    deployment: Deployments, redis_url: str, postgres: PostgresProcess, postgres_url: str
) -> None:
    # Given a deployment that is well
    it = deployment(redis_url, postgres_url, admin=True, sinks=RESULTS, routes=ROUTES)
    it.run("worker")
    it.run("clock")
    it.start()
    it.acked(body(0))
    it.all_delivered(1)
    with contextlib.closing(postgres.connect()) as connection:
        name = postgres_url.rpartition("/")[2]
        cut = b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        # When its database takes no writes any more
        connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
        connection.execute(cut, [name])
        try:
            # Then commands and the address for monitors say so
            code, problems = status(it)
            assert (code, "read-only" in problems["ledger_away"]) == (1, True)
            done = it.call("doctor")
            assert done.returncode != 0
            assert "the database is read-only" in done.stdout
            wrong = httpx2.get(f"{it.admin_url}/readyz?all", timeout=30).json()["wrong"]
            assert wrong["ledger"] == "the database is read-only"
            # And events are kept
            it.acked(body(1))
        finally:
            connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'.encode())
            connection.execute(cut, [name])
    # And delivered once it takes writes again
    it.all_delivered(2)


@pytest.mark.parametrize("replaced", [False, True], ids=["deleted", "replaced"])
def test_deleted_sqlite_file_is_written_no_more(deployment: Deployments, valkey: ValkeyProcess, replaced: bool) -> None:
    # Given a deployment on SQLite that has recorded an event
    it = deployment(valkey.url, admin=True, sinks=RESULTS, routes=ROUTES)
    it.run("worker")
    it.run("clock")
    it.start()
    it.acked(body(0))
    it.all_delivered(1)
    path = it.directory / "data" / "ledger.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", [f"{path}.backup"])
    # When its file is deleted, or a backup is put in its place, while it is open
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    if replaced:
        shutil.copy(f"{path}.backup", path)
    it.acked(*(body(number) for number in range(1, 4)))
    # Then the worker says so, and the events stay in the inbox
    eventually(lambda: "was deleted or replaced while it was open" in it.log_of("worker"))
    eventually(lambda: "was deleted or replaced while it was open" in it.log_of("clock"))
    with contextlib.closing(valkey.connect()) as client:
        assert client.xlen("runhook:inbox") == 3
    # And after a restart of the processes they are recorded and delivered
    for part in ("worker", "clock"):
        it.parts[part].terminate()
        it.parts[part].wait(60)
        it.run(part)
    it.ledger.close()
    it.ledger = Ledger(it.database_url)
    it.all_delivered(4 if replaced else 3)
    runs = it.ledger.read(lambda connection: queries.list_deliveries(connection, queries.Filter()))
    assert {row["run_id"] for row in runs} >= {f"tsk_{number:06}" for number in range(1, 4)}
