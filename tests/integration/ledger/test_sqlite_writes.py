"""Writing to a ledger on SQLite: what trouble leaves of a transaction."""

from __future__ import annotations

import resource
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.support.file_lock import FileLock
from receiver.ledger import Connection, Ledger, LedgerDataError, LedgerUnavailable
from receiver.ledger.schema import events
from tests.support.ledger import new_event, record, states, with_tables


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))) as it:
        yield it


def count(ledger: Ledger) -> int:
    query = sa.select(sa.func.count()).select_from(events)
    return ledger.read(lambda connection: connection.execute(query).scalar_one())


def assert_well(ledger: Ledger) -> None:
    """Assert that the next transaction is none the worse, and that no lock is left behind."""
    before = count(ledger)
    record(ledger, new_event("tsk_after", "ops"))
    assert count(ledger) == before + 1
    assert states(ledger)["tsk_after:ops"] == "queued"
    with closing(sqlite3.connect(str(ledger.url.database), timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_write_fails_while_another_program_locks_the_file(tmp_path: Path) -> None:
    # Given an operator's shell that has begun to write, when we have a connection and when we have none
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", lock_wait=0.05))
    for number in range(2):
        with closing(sqlite3.connect(str(ledger.url.database), isolation_level=None)) as shell:
            shell.execute("BEGIN IMMEDIATE")
            # When something is to be recorded, then nothing is
            with pytest.raises(LedgerUnavailable, match="locked"):
                record(ledger, new_event(f"tsk_{number}"))
            shell.execute("ROLLBACK")
        # And the next one is, once the shell has ended
        record(ledger, new_event(f"tsk_{number}", "ops"))
    assert_well(ledger)


def test_writer_reports_the_lock_of_another_process(tmp_path: Path) -> None:
    # Given a ledger that is new, and another process that writes in it: SQLite's own lock would let a fifth fail
    path = tmp_path / "ledger.db"
    other = FileLock(Path(f"{path}.lock"))
    with closing(Ledger(f"sqlite:///{path}", lock_wait=0.05)) as it:
        # When this one is to be made or written, then nothing is, and who held it is said
        for use in (it.read, it.write):
            with other.held(1), pytest.raises(LedgerUnavailable, match="the ledger was locked by another process"):
                use(lambda _: None)
        record(with_tables(it), new_event("tsk_0"))
        with other.held(1), pytest.raises(LedgerUnavailable, match="the ledger was locked by another process"):
            record(it, new_event("tsk_1"))
        # And who reads waits for nobody
        with other.held(1):
            assert count(it) == 1
        assert_well(it)


@contextmanager
def no_room(ledger: Ledger) -> Iterator[None]:
    """The ledger's files may grow by a few pages only."""
    sizes = [each.stat().st_size for each in Path(str(ledger.url.database)).parent.iterdir()]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) + 20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def test_full_disk_rolls_the_transaction_back(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_0", "ops"))
    with no_room(ledger):
        for number in range(3):
            with pytest.raises(LedgerUnavailable, match=r"disk|full"):
                record(ledger, new_event(f"tsk_{number}", "ops", large="x" * 2_000_000))
        assert count(ledger) == 1
    assert_well(ledger)


def test_cancelled_statement_rolls_its_transaction_back(ledger: Ledger) -> None:
    # Given a transaction that has written, and whose next statement takes long
    forever = sa.text("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT max(x) FROM n")

    def work(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE runs SET status = 'gone'")
        driver: Any = connection.connection.dbapi_connection
        timer = threading.Timer(0.2, driver.interrupt)
        timer.start()
        connection.execute(forever)

    record(ledger, new_event("tsk_0", "ops"))
    # When that is interrupted
    with pytest.raises(LedgerUnavailable, match="interrupted"):
        ledger.write(work)
    # Then nothing is written
    query = "SELECT status FROM runs"
    assert ledger.read(lambda it: it.exec_driver_sql(query).scalars().all()) == ["completed"]
    assert_well(ledger)


def test_transaction_is_committed_as_a_whole(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_0", "ops"))
    query, seen = "SELECT status FROM runs", list[str]()
    with closing(sqlite3.connect(str(ledger.url.database))) as other:

        def work(connection: Connection) -> None:
            connection.exec_driver_sql("UPDATE runs SET status = 'gone'")
            seen.extend(row[0] for row in other.execute(query).fetchall())

        ledger.write(work)
        assert seen == ["completed"]
        assert other.execute(query).fetchall() == [("gone",)]
    assert_well(ledger)


class Stopped(BaseException):
    """As a job's time-out is raised, in the midst of anything."""


@pytest.mark.parametrize("error", [Stopped, ZeroDivisionError])
def test_a_transaction_that_is_left_by_an_error_is_rolled_back(ledger: Ledger, error: type[BaseException]) -> None:
    def work(connection: Connection) -> None:
        connection.exec_driver_sql("UPDATE runs SET status = 'gone'")
        raise error

    record(ledger, new_event("tsk_0", "ops"))
    with pytest.raises(error):
        ledger.write(work)
    assert ledger.read(lambda it: it.exec_driver_sql("SELECT status FROM runs").scalars().all()) == ["completed"]
    assert_well(ledger)


@pytest.mark.parametrize("value", ["\ud800", 2**63])
def test_a_value_that_sqlite_has_not_is_the_value_s_fault(ledger: Ledger, value: Any) -> None:
    """As on PostgreSQL: a batch is halved until the one to blame stands alone."""
    asked = sa.select(sa.bindparam("value", value, type_=sa.Text))
    with pytest.raises(LedgerDataError):
        ledger.write(lambda it: it.execute(asked).all())
    assert_well(ledger)
