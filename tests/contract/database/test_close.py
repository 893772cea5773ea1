"""A sink that is closed while a send is under way, as by a worker that ends: nobody closes it again."""

import time
from pathlib import Path

import sqlalchemy as sa

from handlers.contract import Receipt
from handlers.database.server import Database
from tests.support.open_files import opened_below
from tests.support.results_db import ResultsDb, event
from tests.support.waiting import eventually


def test_connection_in_use_closes_after_its_transaction(database: ResultsDb, tmp_path: Path) -> None:
    # Given a transaction under way
    used = Database(database.engine.url, 5)
    with used.transaction(time.monotonic() + 5) as connection:
        # When the database is closed
        used.close()
        # Then it ends as it would have
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
    # And nothing stays open
    assert_nothing_is_open(database, tmp_path)


def test_send_during_close_leaves_no_connection(database: ResultsDb, tmp_path: Path) -> None:
    # Given a sink that is closed while a thread of it prepares a row
    sink = database.sink()
    sink.send(event("tsk_1", 1))
    sink.close()
    # When it writes that
    assert isinstance(sink.send(event("tsk_1", 2)), Receipt)
    # Then nothing stays open
    assert_nothing_is_open(database, tmp_path)


def assert_nothing_is_open(database: ResultsDb, tmp_path: Path) -> None:
    if database.engine.dialect.name == "sqlite":
        database.engine.dispose()
        assert opened_below(tmp_path) == set()
    else:
        ours = "FROM pg_stat_activity WHERE application_name = 'runhook' AND datname = current_database()"
        eventually(lambda: database.query(f"SELECT count(*) AS sessions {ours}")[0]["sessions"] == 0)
