"""Connections to a ledger on SQLite: what is committed is on disk, and no transaction begins by itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event as sa_event

# SQLite's least value of `synchronous` at which what is committed is on disk.
_FULL: Final = 2


def make(url: sa.URL, wait: float, begin: str) -> sa.Engine:
    """Return an engine whose transactions start with `begin`. `wait`: seconds for a connection of the pool."""
    engine = sa.create_engine(url, connect_args={"timeout": 5.0}, pool_timeout=wait)

    @sa_event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver must not begin by itself
        connection.execute("PRAGMA synchronous=FULL").close()
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        if level < _FULL:
            raise sqlite3.OperationalError(f"PRAGMA synchronous is {level} and stays so, and must be FULL")

    @sa_event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        if not driver.in_transaction:
            _execute(connection, driver, begin)

    return engine


@contextmanager
def writing(connection: sa.Connection) -> Iterator[None]:
    """Run the block in a transaction that writes, and commit it. After an error it is open until the connection closes.

    SQLAlchemy takes part only once the block asks it for something: its own begin and commit cost 0.1 ms in a process
    that has just woken.
    """
    driver: Any = connection.connection.dbapi_connection
    _execute(connection, driver, "BEGIN IMMEDIATE")
    yield
    if connection.in_transaction():
        connection.commit()
    else:
        _execute(connection, driver, "COMMIT")


def _execute(connection: sa.Connection, driver: sqlite3.Connection, statement: str) -> None:
    try:
        driver.execute(statement)  # half of what it costs by SQLAlchemy
    except sqlite3.Error as error:
        connection._handle_dbapi_exception(error, statement, None, None, None)
