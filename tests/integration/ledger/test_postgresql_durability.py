"""What PostgreSQL has confirmed to the ledger is on its disk, whatever its own settings say, or nothing is written."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa

from receiver.errors import NotStarted
from receiver.ledger import Ledger, LedgerNotDurable, LedgerUnavailable
from receiver.ledger.migrate import ensure_schema
from receiver.ledger.schema import events
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import new_event, record, with_tables
from tests.support.waiting import eventually


def shown(ledger: Ledger, *names: str) -> list[str]:
    def work(connection: sa.Connection) -> list[str]:
        return [str(connection.exec_driver_sql(f"SHOW {name}").scalar()) for name in names]

    return ledger.write(work)


def test_commits_survive_a_kill_of_an_asynchronous_server(
    postgres_factory: Callable[..., PostgresProcess],
) -> None:
    # Given a PostgreSQL with a common tuning, which writes its log out every 10 s at the most
    server = postgres_factory(synchronous_commit="off", wal_writer_delay="10s", wal_writer_flush_after="1GB")
    ledger = with_tables(Ledger(server.url(), require_durability=True))
    committed: list[str] = []
    numbers = itertools.count()
    killed = threading.Event()

    def commit() -> None:
        while not killed.is_set():
            with contextlib.suppress(LedgerUnavailable):
                committed.extend(record(ledger, new_event(f"tsk_{next(numbers)}", "ops")))

    threads = [threading.Thread(target=commit) for _ in range(4)]
    for thread in threads:
        thread.start()
    # When it is killed under load
    eventually(lambda: len(committed) > 60)
    server.kill()
    killed.set()
    for thread in threads:
        thread.join(60)
    server.start()
    # Then each event whose commit was confirmed is there
    kept = set(ledger.read(lambda it: it.execute(sa.select(events.c.id)).scalars().all()))
    assert set(committed) - kept == set()
    ledger.close()


@pytest.mark.parametrize(
    ("setting", "result"), [("off", "on"), ("local", "on"), ("on", "on"), ("remote_apply", "remote_apply")]
)
def test_each_transaction_commits_to_the_servers_own_disk(
    postgres: PostgresProcess, postgres_url: str, setting: str, result: str
) -> None:
    name = sa.make_url(postgres_url).database
    with contextlib.closing(postgres.connect()) as connection:
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = {setting}'.encode())
        ledger = Ledger(postgres_url)
        try:
            assert shown(ledger, "synchronous_commit") == [result]
        finally:
            connection.execute(f'ALTER DATABASE "{name}" RESET synchronous_commit'.encode())
            ledger.close()


def test_server_without_fsync_is_not_written_unless_accepted(postgres: PostgresProcess, postgres_url: str) -> None:
    # Given a ledger with tables, and a server that was then made quicker
    with_tables(Ledger(postgres_url)).close()
    with postgres.altered(fsync="off", full_page_writes="off"):
        ledger, accepting = Ledger(postgres_url, require_durability=True), Ledger(postgres_url)
        # When a part starts, then it says in one line what to do
        with pytest.raises(NotStarted) as caught:
            ensure_schema(ledger)
        (line,) = str(caught.value).splitlines()
        assert "fsync is off, so a crash of its machine can lose what was committed: set it to on" in line
        assert "full_page_writes is off" in line
        assert "ledger.accept_weaker_durability: true in the config" in line
        # And when one that runs is reconnected to it, then it writes nothing, and still reads
        with pytest.raises(LedgerNotDurable, match="fsync is off"):
            record(ledger, new_event("tsk_1", "ops"))
        assert ledger.read(lambda it: it.execute(sa.select(events.c.id)).all()) == []
        # But where the operator accepts it, all goes on
        ensure_schema(accepting)
        assert record(accepting, new_event("tsk_1", "ops"))
        ledger.close()
        accepting.close()


def test_each_session_has_time_limits(postgres_url: str) -> None:
    ledger = Ledger(postgres_url)
    found = shown(ledger, "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    assert found == ["10s", "5s", "10s"]
    assert shown(ledger, "tcp_user_timeout", "tcp_keepalives_idle", "tcp_keepalives_interval") == ["10000", "4", "2"]
    assert shown(ledger, "client_connection_check_interval") == ["10s"]

    def migration(connection: sa.Connection) -> str:
        return str(connection.exec_driver_sql("SHOW statement_timeout").scalar())

    assert ledger.alter(migration) == "0"
    assert shown(ledger, "statement_timeout") == ["10s"]
    ledger.close()


@pytest.mark.parametrize("chosen", ["", "pglz"])
def test_lz4_compresses_large_values_by_default(postgres: PostgresProcess, postgres_url: str, chosen: str) -> None:
    name = sa.make_url(postgres_url).database
    with contextlib.closing(postgres.connect()) as connection:
        # Given a server that has lz4, as most have
        has = connection.execute("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'").fetchone()
        best = "lz4" if has and "lz4" in has[0] else "pglz"
        if chosen:
            connection.execute(f'ALTER DATABASE "{name}" SET default_toast_compression = {chosen}'.encode())
        ledger = with_tables(Ledger(postgres_url))
        try:
            # When an event with a large body is recorded
            record(ledger, new_event("tsk_1", "ops", output="abc" * 5000))
            # Then it is compressed as the operator chose, or else by lz4
            used = ledger.read(lambda it: it.exec_driver_sql("SELECT pg_column_compression(body) FROM events").scalar())
            assert used == (chosen or best)
        finally:
            connection.execute(f'ALTER DATABASE "{name}" RESET default_toast_compression'.encode())
            ledger.close()


def test_behind_a_pooler_each_transaction_brings_its_settings(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a pooler, whose sessions have a process other than it tells
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", 1)
    ledger = Ledger(postgres_url)
    # Then nothing is set that would stay with a session which is not ours
    assert shown(ledger, "default_toast_compression") == ["pglz"]
    # And when another one of its sessions gets the next transaction
    ledger.write(lambda connection: connection.exec_driver_sql("RESET ALL"))
    # Then nothing depends on the first one
    assert shown(ledger, "synchronous_commit", "statement_timeout", "lock_timeout") == ["on", "10s", "5s"]
    assert shown(ledger, "idle_in_transaction_session_timeout") == ["10s"]
    ledger.close()
