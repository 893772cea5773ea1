"""The database is away, slow, locked, full or read-only."""

import fcntl
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from handlers.contract import Receipt, Unavailable
from handlers.database.server import Database
from tests.servers.postgres import PostgresProcess
from tests.support.results_db import ResultsDb, event
from tests.support.waiting import PATIENCE, Stopwatch, eventually


def test_killed_server_continues_with_its_rows_when_it_returns(
    postgres_factory: Callable[..., PostgresProcess],
) -> None:
    server = postgres_factory()
    database = ResultsDb(server.url())
    sink = database.sink(timeout=30)
    sink.send(event("tsk_1", 1))
    server.kill()
    with pytest.raises(Unavailable, match="PostgreSQL"):
        sink.send(event("tsk_2", 1))
    server.start()
    sink.send(event("tsk_3", 1))  # at once, on a connection of before the kill
    assert [row["run_id"] for row in database.rows()] == ["tsk_1", "tsk_3"]
    database.close()


def test_connections_that_the_server_has_closed_cost_no_send(pg: ResultsDb) -> None:
    sink = pg.sink()
    sink.send(event("tsk_1", 1))

    def close_all() -> None:
        ours = "FROM pg_stat_activity WHERE application_name = 'runhook' AND datname = current_database()"
        ended = pg.query(f"SELECT pg_terminate_backend(pid, 60000) AS ended {ours}")
        assert {row["ended"] for row in ended} == {True}

    close_all()
    sink.send(event("tsk_2", 1))  # a row that is new
    close_all()
    sink.send(event("tsk_2", 2))  # and one that is there
    close_all()
    assert sink.missing_columns() == []
    assert [row["run_id"] for row in pg.rows()] == ["tsk_1", "tsk_2"]


def test_a_table_whose_key_is_altered_costs_no_send(pg: ResultsDb) -> None:
    sink = pg.sink()
    sink.send(event("tsk_1", 1))  # which prepares what answers with the key
    pg.execute("ALTER TABLE skyvern_runs ALTER COLUMN run_id TYPE varchar(200)")
    sink.send(event("tsk_2", 1))
    assert [row["run_id"] for row in pg.rows()] == ["tsk_1", "tsk_2"]


def test_a_server_that_hangs_in_the_middle_is_left_in_time(postgres_factory: Callable[..., PostgresProcess]) -> None:
    server = postgres_factory()
    database = ResultsDb(server.url())
    sink = database.sink(timeout=5)
    sink.send(event("tsk_1", 1))
    server.hang()
    watch = Stopwatch()
    with pytest.raises(Unavailable, match="in time"):
        sink.send(event("tsk_2", 1))
    watch.at_most(20)
    server.resume()
    sink.send(event("tsk_3", 1))
    assert {"tsk_1", "tsk_3"} <= {row["run_id"] for row in database.rows()}
    database.close()


def test_a_locked_table_is_unavailable_in_time(pg: ResultsDb) -> None:
    sink = pg.sink()
    sink.send(event("tsk_1", 1))
    with pg.engine.begin() as connection:
        connection.execute(sa.text("LOCK TABLE skyvern_runs IN ACCESS EXCLUSIVE MODE"))
        watch = Stopwatch()
        with pytest.raises(Unavailable, match="lock timeout"):
            pg.sink(timeout=2).send(event("tsk_1", 2))
        watch.at_most(20)
    assert isinstance(sink.send(event("tsk_1", 2)), Receipt)


def test_locked_sqlite_file_is_unavailable_in_time(sqlite: ResultsDb, tmp_path: Path) -> None:
    sqlite.sink().send(event("tsk_1", 1))
    sink = sqlite.sink(timeout=1)
    with (tmp_path / "results.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="locked by another process"):
            sink.send(event("tsk_1", 2))
    with sqlite.engine.begin() as connection:  # somebody who knows nothing of our lock
        connection.execute(sa.text("UPDATE skyvern_runs SET title = 'x'"))
        with pytest.raises(Unavailable, match="locked"):
            sink.send(event("tsk_1", 2))
    assert isinstance(sqlite.sink().send(event("tsk_1", 2)), Receipt)


def test_readers_of_sqlite_are_not_kept_waiting(sqlite: ResultsDb) -> None:
    sink = sqlite.sink()
    sink.send(event("tsk_1", 1))
    with closing(Database(sqlite.engine.url, 5)) as database, database.transaction(time.monotonic() + 5) as connection:
        connection.execute(sa.text("UPDATE skyvern_runs SET title = 'x'"))
        assert sqlite.row()["title"] is None


def test_a_deadlock_is_tried_again_by_the_caller(pg: ResultsDb) -> None:
    """Between us and somebody else's program: among ourselves rows are locked in one order."""
    sink = pg.sink(timeout=8)
    sink.send_many([event("tsk_1", 1), event("tsk_2", 1)])
    with pg.engine.connect() as other:
        other.execute(sa.text("SET deadlock_timeout = '10s'"))  # so that the other one is not the victim
        other.execute(sa.text("SELECT 1 FROM skyvern_runs WHERE run_id = 'tsk_2' FOR UPDATE"))
        answers: list[Receipt | Exception] = []
        batch = [event("tsk_1", 2), event("tsk_2", 2)]
        thread = threading.Thread(target=lambda: answers.extend(sink.send_many(batch)))
        thread.start()
        eventually(lambda: pg.query("SELECT 1 FROM pg_locks WHERE NOT granted"))
        other.execute(sa.text("UPDATE skyvern_runs SET title = 'x' WHERE run_id = 'tsk_1'"))
        other.commit()
        thread.join(PATIENCE)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    assert "40P01" in str(answers[0])
    assert all(isinstance(answer, Receipt) for answer in sink.send_many(batch))


def test_a_full_or_read_only_database_waits_for_its_operator(pg: ResultsDb) -> None:
    sink = pg.sink()
    sink.send(event("tsk_1", 1))
    pg.execute("ALTER ROLE postgres SET default_transaction_read_only = on")
    try:
        fresh = pg.sink()
        with pytest.raises(Unavailable, match="read-only transaction"):
            fresh.send(event("tsk_1", 2))
    finally:
        with pg.engine.connect() as connection:
            connection.execute(sa.text("SET default_transaction_read_only = off"))
            connection.execute(sa.text("ALTER ROLE postgres RESET default_transaction_read_only"))
            connection.commit()
