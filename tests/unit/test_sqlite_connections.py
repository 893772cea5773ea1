"""A connection to SQLite that a test leaves open is told with its test, on each Python."""

from __future__ import annotations

import gc
import sqlite3
import warnings
from pathlib import Path

import sqlalchemy as sa


def test_a_connection_that_is_left_open_is_told_with_its_test_and_line(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        sqlite3.connect(tmp_path / "x.db")
        gc.collect()  # a connection refers to itself, by its statements

    (told,) = caught
    assert told.category is ResourceWarning
    assert "of tests/unit/test_sqlite_connections.py::test_a_connection_that_is_left_open" in str(told.message)
    assert f"{__file__}:" in str(told.message)


def test_one_that_is_closed_is_not_told_whoever_has_opened_it(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        sqlite3.connect(tmp_path / "x.db").close()
        engine = sa.create_engine(f"sqlite:///{tmp_path}/x.db")
        with engine.connect() as connection:
            assert isinstance(connection.connection.dbapi_connection, sqlite3.Connection)
        engine.dispose()
        del engine, connection
        gc.collect()

    assert caught == []
