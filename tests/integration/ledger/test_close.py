"""A ledger that is closed while a transaction is under way, as by a clock that ends while a poll is answered."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from receiver.ledger import Connection, Ledger
from tests.support.ledger import with_tables


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_connection_in_use_is_closed_when_its_transaction_has_ended(ledger: Ledger, kind: str) -> None:
    # Given a transaction under way
    used: list[Any] = []

    def work(connection: Connection) -> int:
        used.append(connection.connection.dbapi_connection)
        # When the ledger is closed
        ledger.close()
        return int(connection.execute(sa.text("SELECT 1")).scalar_one())

    # Then the transaction ends as it would have
    assert getattr(ledger, kind)(work) == 1
    # And its connection is closed, and not left to the garbage collector
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


def opened_below(folder: Path) -> set[str]:
    """The names of the files in it that this process has open."""
    found = {path.name: path.stat() for path in folder.iterdir()}
    return {
        name
        for name, each in found.items()
        for open_file in Path("/dev/fd").iterdir()
        if same(int(open_file.name), each)
    }


def same(number: int, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(number), wanted)
    except OSError:
        return False
