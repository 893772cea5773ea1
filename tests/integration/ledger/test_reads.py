"""What a read costs, and leaves behind."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from receiver.ledger import Connection, Ledger
from tests.support.ledger import new_event, record
from tests.support.scripted_sink import rows


def test_a_query_for_itself_begins_no_transaction_and_the_next_one_that_needs_it_does(postgres_ledger: Ledger) -> None:
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
