"""A ledger that is closed while a transaction is under way, as by a clock that ends while a poll is answered."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from receiver.ledger import Connection, Ledger
from tests.support.ledger import with_tables
from tests.support.open_files import opened_below


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("closed", ["before", "meanwhile"])
def test_transaction_ends_and_closes_its_connection(ledger: Ledger, kind: str, closed: str) -> None:
    # Given a ledger that is closed before a transaction begins, or while it is under way
    used: list[Any] = []
    if closed == "before":
        ledger.close()

    def work(connection: Connection) -> int:
        used.append(connection.connection.dbapi_connection)
        if closed == "meanwhile":
            ledger.close()
        return int(connection.execute(sa.text("SELECT 1")).scalar_one())

    # When it has ended, then its connection is closed, and not left to the garbage collector
    assert getattr(ledger, kind)(work) == 1
    with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError), match="closed"):
        used[0].cursor()


def test_a_ledger_that_is_closed_keeps_no_file_open(tmp_path: Path) -> None:
    # Given a ledger that has been written and read
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    ledger.write(lambda connection: connection.execute(sa.text("SELECT 1")))
    assert opened_below(tmp_path)
    # When it is closed
    ledger.close()
    # Then none of its files is open: the database, its log, and the lock of those who write
    assert opened_below(tmp_path) == set()
    # And also not after work that was not over
    ledger.write(lambda connection: connection.execute(sa.text("SELECT 1")))
    ledger.read(lambda connection: connection.execute(sa.text("SELECT 1")))
    assert opened_below(tmp_path) == set()
