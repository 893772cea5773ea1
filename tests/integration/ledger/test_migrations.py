"""The revisions make the tables that the code declares, however many processes begin at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from receiver.errors import NotStarted
from receiver.ledger import Ledger, migrate, polls
from receiver.ledger.schema import metadata
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import with_tables


def test_revisions_make_the_declared_tables(ledger: Ledger) -> None:
    def compare(_object: object, name: str, _kind: str, reflected: bool, _declared: object) -> bool:
        return not (reflected and name.startswith(("words", "ix_run_texts_words")))  # see ledger/lists/words.py

    # SQLite writes defaults as text.
    options = {"compare_server_default": ledger.dialect == "postgresql", "include_object": compare}
    differences = ledger.read(lambda it: compare_metadata(MigrationContext.configure(it, opts=options), metadata))
    assert differences == []
    assert ScriptDirectory("receiver/ledger/migrations").get_current_head() == migrate.HEAD


# Tables that only earlier schemas have.
REMOVED = {
    "saved_views": "id TEXT PRIMARY KEY, owner TEXT NOT NULL",
    "incident_marks": "source TEXT, id TEXT, PRIMARY KEY (source, id)",
    "schedules": "source TEXT, schedule_id TEXT, PRIMARY KEY (source, schedule_id)",
}


def test_earlier_schema_is_upgraded_without_losing_rows(ledger: Ledger) -> None:
    # Given a ledger of the earlier schema, with a run
    for name, columns in REMOVED.items():
        ledger.alter(lambda it, sql=f"CREATE TABLE {name} ({columns})": it.exec_driver_sql(sql))  # type: ignore[misc]
    ledger.write(lambda it: it.exec_driver_sql("UPDATE alembic_version SET version_num = 'v10'"))
    ledger.write(lambda it: it.exec_driver_sql(_RUN.format("tsk_1")))
    trouble = migrate.schema_trouble(ledger)
    assert trouble is not None
    assert "`runhook worker`, which upgrades it" in trouble.todo
    # When a process starts
    migrate.ensure_schema(ledger)
    # Then the ledger has the declared tables, and the run
    assert migrate.schema_trouble(ledger) is None
    assert not REMOVED.keys() & set(ledger.read(lambda it: sa.inspect(it).get_table_names()))
    assert rows(ledger, "SELECT run_id FROM runs") == [("tsk_1",)]


# The columns and indexes of polls in schema v11, and rows of each kind.
V11 = (
    "DROP TABLE polls",
    *(f"ALTER TABLE runs ADD COLUMN {name} DOUBLE PRECISION" for name in ("noted_at", "due_at")),
    "ALTER TABLE runs ADD COLUMN found_by TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE submissions ADD COLUMN due_at DOUBLE PRECISION",
    *(f"ALTER TABLE {table} ADD COLUMN polls INTEGER NOT NULL DEFAULT 0" for table in ("runs", "submissions")),
    "CREATE INDEX ix_runs_due ON runs (source, due_at, run_id) WHERE due_at IS NOT NULL",
    "CREATE INDEX ix_submissions_due ON submissions (source, due_at, id) WHERE due_at IS NOT NULL",
    "UPDATE alembic_version SET version_num = 'v11'",
    (
        "INSERT INTO runs (source, run_id, first_seen_at, updated_at, noted_at, due_at, polls, found_by) VALUES"
        " ('s', 'tsk_alone', 1, 2, 3, 4, 5, 'import'), ('s', 'tsk_mine', 1, 2, 3, NULL, 0, ''),"
        " ('s', 'tsk_both', 1, 2, NULL, 40, 1, ''), ('s', 'tsk_over', 1, 2, 3, NULL, 5, '')"
    ),
    (
        "INSERT INTO submissions (id, source, key_id, call, state, run_id, request_hash, due_at, polls, reason,"
        " created_at, updated_at) VALUES ('sub_1', 's', 'k', 'tasks', 'accepted', 'tsk_mine', 'h', 6, 7, 'why', 8, 9),"
        " ('sub_2', 's', 'k', 'tasks', 'unknown', '', 'h', 6, 0, '', 8, 9),"
        " ('sub_3', 's', 'k', 'tasks', 'accepted', 'tsk_over', 'h', NULL, 3, '', 8, 9),"
        " ('sub_4', 's', 'k', 'tasks', 'accepted', 'tsk_both', 'h', 10, 0, '', 8, 9)"
    ),
)


def test_upgrade_keeps_the_polls_of_runs_and_submissions(ledger: Ledger) -> None:
    # Given a ledger of schema v11, with polls of runs and submissions
    for statement in V11:
        ledger.alter(lambda it, sql=statement: it.exec_driver_sql(sql))  # type: ignore[misc]
    # When a process starts
    migrate.ensure_schema(ledger)
    # Then each run and submission that was polled has one poll, as it was planned
    names = "run_id, due_at, planned_at, polls, reason, noted_at, found_by, created_at"
    assert rows(ledger, f"SELECT {names} FROM polls ORDER BY run_id") == [
        ("sub_2", 6, 6, 0, "", None, "", 8),
        ("tsk_alone", 4, 4, 5, "", 3, "import", 1),
        ("tsk_both", 10, 10, 0, "", None, "", 8),
        ("tsk_mine", 6, 6, 7, "why", 3, "", 8),
    ]
    assert ledger.read(lambda it: polls.count_due(it, 9.0, ["s"], 9)) == {"s": 3}
    test_revisions_make_the_declared_tables(ledger)


def test_indexes_and_their_conditions_are_those_declared(tmp_path: Path) -> None:
    def indexes(made: Ledger) -> dict[str, str]:
        return dict(rows(made, "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"))  # type: ignore[arg-type]

    migrated, declared = (Ledger(f"sqlite:///{tmp_path / name}.db") for name in ("migrated", "declared"))
    migrate.ensure_schema(migrated)
    declared.alter(metadata.create_all)

    assert indexes(migrated) == indexes(declared)
    migrated.close()
    declared.close()


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
def test_processes_starting_together_on_new_sqlite_all_start(tmp_path: Path, rounds: int) -> None:
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


def test_postgresql_compares_texts_by_their_bytes(database_of_a_language: str) -> None:
    # Given a new ledger in a database that compares texts by the rules of a language
    ledger = with_tables(Ledger(database_of_a_language))
    for run_id in ("tsk_b", "tsk_B", "É"):
        ledger.write(lambda it, run_id=run_id: it.exec_driver_sql(_RUN.format(run_id)))  # type: ignore[misc]
    # Then all its texts are compared by bytes
    assert rows(ledger, _BY_ITS_RULES) == [(None,)]
    assert rows(ledger, "SELECT run_id FROM runs ORDER BY run_id") == [("tsk_B",), ("tsk_b",), ("É",)]
    ledger.close()
