"""The migrations: they make the tables that the code declares, however many begin at once, and keep what is there.

What revision 0004 does to a ledger with rows of every kind is in test_old_ledger.py.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from receiver.ledger import Ledger, marks, migrate
from receiver.ledger.schema import metadata
from tests.support.old_ledger import upgraded


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
