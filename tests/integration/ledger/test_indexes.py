"""Indexes that a ledger lacks are made beside the work that goes on, and made anew after an interruption."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from receiver.errors import NotStarted
from receiver.ledger import Ledger, indexes
from receiver.ledger.migrate import ensure_schema
from tests.support.ledger import new_event, record
from tests.support.waiting import eventually

NAME = "ix_deliveries_stopped"


def lacking(ledger: Ledger) -> list[str]:
    return [str(index.name) for index in ledger.read(indexes.lacking)]


def ask(ledger: Ledger, query: str) -> object:
    return ledger.read(lambda connection: connection.exec_driver_sql(query).scalar_one())


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each table counts as a large one."""
    monkeypatch.setattr(indexes, "SMALL", -1)


def test_an_index_that_is_lacking_is_made(ledger: Ledger) -> None:
    ledger.alter(lambda connection: connection.exec_driver_sql(f"DROP INDEX {NAME}"))
    assert lacking(ledger) == [NAME]
    ensure_schema(ledger)
    assert lacking(ledger) == []


@pytest.fixture
def writing(postgres_ledger: Ledger) -> Iterator[sa.Connection]:
    """A transaction that has written to a table that lacks an index, and goes on: making it must wait for that."""
    postgres_ledger.alter(lambda connection: connection.exec_driver_sql(f"DROP INDEX {NAME}"))
    other = Ledger(postgres_ledger.url.render_as_string(hide_password=False))
    with other.idle_transaction() as connection:
        connection.exec_driver_sql("UPDATE deliveries SET reason = '' WHERE false")
        yield connection
    other.close()


@pytest.mark.usefixtures("large")
def test_work_goes_on_while_the_index_of_a_large_table_is_made(postgres_ledger: Ledger, writing: sa.Connection) -> None:
    ledger = postgres_ledger
    building = "SELECT count(*) FROM pg_stat_progress_create_index"
    makers = [threading.Thread(target=ensure_schema, args=(ledger,), daemon=True) for _ in range(2)]
    # When two processes begin to make the index
    for each in makers:
        each.start()
    eventually(lambda: ask(ledger, building) == 1)
    # Then others write to the table meanwhile
    assert len(record(ledger, new_event("tsk_1", "ops"))) == 1
    assert lacking(ledger) == [NAME]
    # And both have it when the transaction has ended
    writing.rollback()
    for each in makers:
        each.join(30)
        assert not each.is_alive()
    assert lacking(ledger) == []


@pytest.mark.usefixtures("large")
def test_an_index_whose_making_was_interrupted_is_made_anew(postgres_ledger: Ledger, writing: sa.Connection) -> None:
    # Given an index whose making is cut in the middle
    ledger, failures = postgres_ledger, list[str]()

    def make() -> None:
        try:
            ensure_schema(ledger)
        except NotStarted as error:
            failures.append(str(error))

    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    pid = eventually(
        lambda: ledger.read(lambda it: it.exec_driver_sql("SELECT pid FROM pg_stat_progress_create_index").scalar())
    )
    ask(ledger, f"SELECT pg_terminate_backend({pid}, 5000)")
    maker.join(30)
    assert len(failures) == 1
    writing.rollback()
    # When it is there, and is invalid
    assert ask(ledger, f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{NAME}'::regclass") is False
    assert lacking(ledger) == [NAME]
    # Then the next to start makes it anew
    ensure_schema(ledger)
    assert lacking(ledger) == []
    assert ask(ledger, f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{NAME}'::regclass") is True


@pytest.mark.parametrize("is_large", [False, True])
def test_an_index_that_another_replaces_is_dropped_once_that_one_is_there(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, is_large: bool
) -> None:
    monkeypatch.setattr(indexes, "SMALL", -1 if is_large else indexes.SMALL)
    dropped: list[list[str]] = []
    # Given a ledger of an earlier release
    old, new = "ix_deliveries_event_id", "ix_deliveries_source_run_id_event_id"
    ledger.alter(lambda connection: connection.exec_driver_sql(f"CREATE INDEX {old} ON deliveries (event_id)"))
    ledger.alter(lambda connection: connection.exec_driver_sql(f"DROP INDEX {new}"))
    drop = indexes._drop
    monkeypatch.setattr(indexes, "_drop", lambda it, name: (dropped.append(lacking(it)), drop(it, name)))
    # When this one starts
    ensure_schema(ledger)
    # Then it has its own index, and had it before the old one went
    assert dropped == [[]]
    assert lacking(ledger) == []
    assert old not in ledger.read(indexes._found)
