"""A ledger that is closed while a transaction is under way, as by a clock that ends while a poll is answered."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from receiver.ledger import Connection, Ledger


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
