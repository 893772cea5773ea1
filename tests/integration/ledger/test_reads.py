"""What a read costs, and leaves behind."""

from __future__ import annotations

import itertools
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from receiver.ledger import Connection, Ledger
from receiver.ledger.database.database_clock import DatabaseClock, database_now
from tests.servers.valkey import free_port
from tests.support.ledger import new_event, record, with_tables
from tests.support.runners import rows


def test_single_query_begins_no_transaction(postgres_ledger: Ledger) -> None:
    # Given one connection, so that the next one is the same
    record(postgres_ledger, new_event("tsk_1", "ops"))

    def status(connection: Connection) -> TransactionStatus:
        connection.execute(sa.text("SELECT count(*) FROM deliveries"))
        driver = connection.connection.dbapi_connection
        assert driver is not None
        return TransactionStatus(driver.info.transaction_status)

    assert postgres_ledger.read(status, transaction=False) is TransactionStatus.IDLE
    assert postgres_ledger.read(status) is TransactionStatus.INTRANS

    # When a write fails after it
    def failing(connection: Connection) -> None:
        connection.execute(sa.text("DELETE FROM deliveries"))
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        postgres_ledger.write(failing)
    # Then nothing of it is there
    assert len(rows(postgres_ledger)) == 1
    assert postgres_ledger.read(status, transaction=False) is TransactionStatus.IDLE


def test_sqlite_read_transaction_sees_one_state(tmp_path: Path) -> None:
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))

    def count(connection: Connection) -> int:
        return connection.execute(sa.text("SELECT count(*) FROM events")).scalar_one()

    def before_and_after(connection: Connection) -> tuple[int, int]:
        before = count(connection)
        record(ledger, new_event("tsk_1", "ops"))
        return before, count(connection)

    assert ledger.read(before_and_after) == (0, 0)
    assert ledger.read(count) == 1
    ledger.close()


def test_sqlite_is_synchronous_whatever_its_build_defaults(tmp_path: Path) -> None:
    def build_of_another_maker(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF").close()

    def level(connection: Connection) -> int:
        return connection.execute(sa.text("PRAGMA synchronous")).scalar_one()

    sa.event.listen(sa.Pool, "connect", build_of_another_maker)
    try:
        with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
            assert ledger.write(level) == ledger.read(level) == 2
    finally:
        sa.event.remove(sa.Pool, "connect", build_of_another_maker)


def test_first_time_is_already_that_of_the_database(postgres_url: str) -> None:
    # Given a host whose clock is a day behind
    with closing(Ledger(postgres_url, clock=DatabaseClock(host=lambda: time.time() - 86_400))) as ledger:
        # Then what is due is compared with the database's time from the start
        assert abs(ledger.now() - ledger.read(database_now)) < 3600


def test_the_time_is_the_databases_behind_a_pooler_too(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", 1)
    with closing(Ledger(postgres_url, clock=DatabaseClock(host=lambda: time.time() - 86_400))) as ledger:
        assert abs(ledger.now() - ledger.read(database_now)) < 3600


def test_time_is_the_hosts_while_the_database_is_down() -> None:
    with closing(Ledger(f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing")) as ledger:
        assert abs(ledger.now() - time.time()) < 60


class ImpatientClock(DatabaseClock):
    """A clock for which each reading is an hour old. `readings`: of the database's clock."""

    def __init__(self) -> None:
        super().__init__(itertools.count(0.0, 3600.0).__next__)
        self.readings: list[float] = []

    def add_reading(self, asked_at: float, answered_at: float, answer: float) -> None:
        self.readings.append(answer)
        super().add_reading(asked_at, answered_at, answer)


def test_each_transaction_asks_for_time_once_it_is_stale(postgres_url: str) -> None:
    """Else a clock that is set, or another server in its place, would never be heard of."""
    clock = ImpatientClock()
    with closing(Ledger(postgres_url, clock=clock)) as ledger:
        for number in range(1, 4):
            ledger.write(lambda _: None)
            assert len(clock.readings) == number


@pytest.mark.parametrize("pooled", [True, False])
def test_nothing_is_prepared_behind_a_pooler(postgres_url: str, monkeypatch: pytest.MonkeyPatch, pooled: bool) -> None:
    if pooled:
        monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", 1)
    with closing(with_tables(Ledger(postgres_url))) as ledger:
        for number in range(10):
            record(ledger, new_event(f"tsk_{number}", "ops"))
        query = sa.text("SELECT count(*) FROM pg_prepared_statements")
        prepared = ledger.read(lambda connection: connection.execute(query).scalar_one())
    assert (prepared == 0) is pooled
