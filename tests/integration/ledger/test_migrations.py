"""The migrations: they make the tables that the code declares, however many begin at once, and keep what is there.

What revision 0004 does to a ledger with rows of every kind is in test_old_ledger.py.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from receiver.errors import NotStarted
from receiver.ledger import Ledger, marks, migrate
from receiver.ledger.schema import metadata
from tests.servers.postgres import PostgresProcess
from tests.support.old_ledger import made_at, upgraded
from tests.support.waiting import eventually


def test_the_migrations_make_the_tables_that_the_code_declares(ledger: Ledger) -> None:
    assert ledger.read(lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)) == []
    assert ScriptDirectory("receiver/ledger/migrations").get_current_head() == migrate.HEAD


def test_many_processes_may_make_the_tables_at_once(ledger_url: str) -> None:
    ledgers = [Ledger(ledger_url) for _ in range(4)]
    failures: list[BaseException] = []

    def work(ledger: Ledger) -> None:
        try:
            migrate.ensure_schema(ledger)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for each in ledgers:
        each.close()
    assert failures == []


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.long)])
def test_processes_that_begin_together_on_a_new_sqlite_ledger_all_begin(tmp_path: Path, rounds: int) -> None:
    failures: list[BaseException] = []

    def begin(ledger: Ledger, go: threading.Barrier) -> None:
        go.wait(120)
        try:
            migrate.ensure_schema(ledger)
        except NotStarted as error:
            if "by another process for" not in str(error):  # which a busy machine or disk may bring about
                failures.append(error)
        except BaseException as error:
            failures.append(error)
        ledger.close()

    for number in range(rounds):  # the race that this is about was lost in every twentieth round
        go = threading.Barrier(6)
        ledgers = [Ledger(f"sqlite:///{tmp_path / str(number)}.db") for _ in range(6)]
        threads = [threading.Thread(target=begin, args=(each, go)) for each in ledgers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)

        begun = Ledger(f"sqlite:///{tmp_path / str(number)}.db")
        assert migrate.schema_trouble(begun) is None  # whoever had to wait for too long, one has made the tables
        begun.close()

    assert failures == []


def rows(ledger: Ledger, query: str) -> Sequence[tuple[Any, ...]]:
    return [tuple(row) for row in ledger.read(lambda connection: connection.exec_driver_sql(query).all())]


def test_0003_keeps_deliveries(ledger_url: str) -> None:
    ledger = upgraded(
        ledger_url,
        "0002",
        "INSERT INTO deliveries (id, event_id, sink, lane, route, source, run_id, state, due_at, created_at,"
        " updated_at) VALUES ('dlv_1', 'evt_1', 'ops', 'ops', 'r', 's', 'tsk_1', 'queued', 1, 1, 1)",
    )

    assert rows(ledger, "SELECT id, target FROM deliveries") == [("dlv_1", "")]
    ledger.close()


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO heartbeats (name, beat, beat_at) VALUES ('clock/1', '{}', 1)",
        "INSERT INTO keys (id, name, hash, hint, scopes, source, created_at) VALUES ('1', 'a', 'b', 'c', '', 's', 1)",
    ],
)
def test_0011_lets_in_what_waits_for_an_older_version_that_has_recorded_nothing_yet(
    tmp_path: Path, statement: str
) -> None:
    ledger = upgraded(f"sqlite:///{tmp_path / 'ledger.db'}", "0010", statement)

    assert ledger.read(lambda connection: marks.read(connection, marks.UNSIGNED_UNTIL)) is not None
    ledger.close()


_OF_NO_BYTES = """\
SELECT collcollate FROM pg_collation WHERE collprovider = 'c' AND collencoding IN (-1, pg_char_to_encoding('UTF8'))
 AND collcollate NOT IN ('C', 'POSIX', '') ORDER BY collcollate = 'C.utf8', collcollate LIMIT 1"""
_RUN = "INSERT INTO runs (source, run_id, first_seen_at, updated_at) VALUES ('s', '{}', 1, 1)"
# Columns of the ledger that the database compares by its own rules.
_BY_ITS_RULES = """\
SELECT string_agg(relname || '.' || attname, ' ') FROM pg_attribute JOIN pg_class it ON it.oid = attrelid
 JOIN pg_collation c ON c.oid = attcollation WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
 AND relname <> 'alembic_version' AND collname = 'default' AND attnum > 0 AND NOT attisdropped"""


@pytest.fixture
def database_of_a_language(postgres: PostgresProcess) -> Iterator[str]:
    """A database that compares texts by the rules of some language, not by their bytes."""
    with contextlib.closing(postgres.connect()) as connection:
        (locale,) = connection.execute(_OF_NO_BYTES).fetchone() or ("",)
        name = postgres.create_database(locale)
        yield postgres.url(name)
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def test_0021_lets_postgresql_compare_texts_by_bytes(database_of_a_language: str) -> None:
    # Given a ledger of before, in a database that compares texts by the rules of a language
    ledger = upgraded(database_of_a_language, "0020", *(_RUN.format(run_id) for run_id in ("tsk_b", "tsk_B", "É")))
    # When it is upgraded, then all its texts are compared by bytes, be there an index of them or not
    assert rows(ledger, _BY_ITS_RULES) == [(None,)]
    assert rows(ledger, "SELECT run_id FROM runs ORDER BY run_id") == [("tsk_B",), ("tsk_b",), ("É",)]
    # And its indexes find them
    plan = rows(ledger, "EXPLAIN SELECT event_id FROM deliveries WHERE id = 'dlv_1'")
    assert "pk_deliveries" in plan[0][0]
    assert rows(ledger, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    ledger.close()


@contextlib.contextmanager
def upgraded_beside(ledger: Ledger) -> Iterator[list[BaseException]]:
    """Upgrade the ledger beside the block. What that raised is known after it."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            migrate.ensure_schema(ledger)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield failures
    finally:
        thread.join(120)


def connected(
    server: PostgresProcess, ledger: Ledger | None = None
) -> contextlib.closing[psycopg.Connection[tuple[Any, ...]]]:
    return contextlib.closing(server.connect(str(ledger.url.database) if ledger else "postgres"))


def until_it_waits(server: psycopg.Connection) -> None:
    """Wait until an upgrade waits for its tables. `server`: in no transaction, which would see one state for long."""
    query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'"
    eventually(lambda: server.execute(query).fetchone(), every=0.005)


def test_0021_neither_ends_nor_is_ended_by_those_who_read_one_table_after_another(
    postgres: PostgresProcess, database_of_a_language: str
) -> None:
    # Given a transaction that has read runs, as one of the console does, where the server ends no deadlock
    name = database_of_a_language.rpartition("/")[2]
    with connected(postgres) as server:
        server.execute(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '1h'".encode())
    ledger = made_at(database_of_a_language, "0020")
    with connected(postgres, ledger) as other, connected(postgres) as server:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM runs")
        with upgraded_beside(ledger) as failures:
            # When an upgrade waits for it, and it reads a table that the upgrade locks before that one
            until_it_waits(server)
            other.execute("SET LOCAL lock_timeout = '4s'")
            other.execute("SELECT count(*) FROM deliveries")
            other.execute("COMMIT")
    # Then it has its rows, and the upgrade its tables
    assert failures == []
    assert rows(ledger, _BY_ITS_RULES) == [(None,)]
    ledger.close()


def test_0021_keeps_nobody_waiting_while_it_waits_itself(
    postgres: PostgresProcess, database_of_a_language: str
) -> None:
    # Given a transaction that takes long, and holds the last table that an upgrade wants
    ledger = made_at(database_of_a_language, "0020")
    with connected(postgres, ledger) as slow, connected(postgres, ledger) as other, connected(postgres) as server:
        slow.execute("BEGIN")
        slow.execute("LOCK TABLE watches IN ACCESS SHARE MODE")
        with upgraded_beside(ledger) as failures:
            # When others write while the upgrade waits
            other.execute("SET lock_timeout = '4s'")
            for number in range(6):
                until_it_waits(server)
                other.execute(_RUN.format(number).encode())
                other.execute("UPDATE runs SET updated_at = 2")
            slow.execute("COMMIT")
    # Then no write waited for long, and the upgrade is made when the slow one ends
    assert failures == []
    assert rows(ledger, "SELECT count(*) FROM runs") == [(6,)]
    assert rows(ledger, _BY_ITS_RULES) == [(None,)]
    ledger.close()


def test_0021_changes_nothing_where_texts_are_compared_by_bytes(postgres_url: str) -> None:
    ledger = upgraded(postgres_url, "0020")
    ((names,),) = rows(ledger, _BY_ITS_RULES)
    assert "runs.run_id" in names.split()
    ledger.close()
