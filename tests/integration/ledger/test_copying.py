"""`runhook ledger copy` moves every row to another database, or none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.domain.liveness import ProcessBeat
from receiver.ledger import Ledger, heartbeats, schema
from receiver.ledger.database.copying import TABLES
from receiver.ledger.lists import words
from receiver.runtime.process import process_space
from tests.support.command import call_command
from tests.support.ledger import new_event, record, with_tables

VALUES: dict[type, Callable[[int], Any]] = {
    sa.Boolean: lambda number: number % 2 == 0,
    sa.Integer: lambda number: number,
    sa.Double: lambda number: 1_700_000_000.125 + number,
    sa.LargeBinary: lambda number: b'{"a":"\\u0000\xff"}' * (1 if number else 50_000),
    sa.Text: lambda number: f"text {number} “\N{SNOWMAN}”",
}


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Ledger]:
    """An SQLite ledger with three rows in each table, and an optional value missing in each."""
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'old' / 'ledger.db'}"))

    def fill(connection: sa.Connection) -> None:
        for table in TABLES:
            connection.execute(sa.insert(table), [_row(table, number) for number in (0, 1, 2)])

    ledger.write(fill)
    yield ledger
    ledger.close()


def _row(table: sa.Table, number: int) -> dict[str, Any]:
    return {
        column.name: None if column.nullable and number == 2 else _value(column, number + 7) for column in table.columns
    }


def _value(column: sa.Column[Any], number: int) -> Any:
    kind = next(each for each in VALUES if isinstance(column.type, each))
    return VALUES[kind](number if column.primary_key or kind is not sa.LargeBinary else number - 7)


def rows_of(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    def read(connection: sa.Connection) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
            for table in TABLES
        }

    return ledger.read(read)


def copy(source: Ledger, target: str) -> tuple[int, str]:
    done = call_command("ledger", "copy", "--to", target, environ={"DATABASE_URL": str(source.url)})
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def target(ledger_url: str) -> Iterator[Ledger]:
    """An empty database of each kind."""
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()


def test_a_copy_has_each_row_of_each_table(old: Ledger, target: Ledger) -> None:
    # When it is copied
    code, said = copy(old, target.url.render_as_string(hide_password=False))
    # Then all rows are the same, and new events follow those that were copied
    assert code == 0, said
    assert "         3 deliveries\n" in said
    assert f"and compared: all {3 * len(TABLES)} rows are the same" in said
    assert "was not changed" in said
    assert rows_of(target) == rows_of(old)
    record(target, new_event("tsk_new", "db"))
    newest = target.read(lambda it: it.scalar(sa.select(sa.func.max(schema.events.c.seq))))
    assert newest == 10, "the three copied ones are 7, 8 and 9"


def test_the_clock_indexes_copied_runs(old: Ledger, target: Ledger) -> None:
    assert copy(old, target.url.render_as_string(hide_password=False))[0] == 0
    assert target.read(words.coverage).unindexed == 3


def test_a_nul_that_sqlite_stores_is_left_out(old: Ledger, target: Ledger) -> None:
    old.write(lambda it: it.execute(sa.update(schema.runs).values(title="a\0b")))
    assert copy(old, target.url.render_as_string(hide_password=False))[0] == 0
    assert target.read(lambda it: set(it.scalars(sa.select(schema.runs.c.title)))) == {"ab"}


def test_a_database_with_rows_is_refused(old: Ledger, target: Ledger) -> None:
    with_tables(target)
    record(target, new_event("tsk_1", "db"))
    before = rows_of(target)
    code, said = copy(old, target.url.render_as_string(hide_password=False))
    assert code == 2
    assert "contains rows already, in deliveries, events, runs; name an empty database" in said
    assert rows_of(target) == before


def test_a_value_that_does_not_fit_leaves_nothing_behind(old: Ledger, postgres_url: str) -> None:
    # Given a number that only SQLite stores, in the last of the tables
    old.write(lambda it: it.execute(sa.update(schema.submissions).values(answer_status=1 << 40)))
    code, said = copy(old, postgres_url)
    assert code == 1
    assert "nothing was copied" in said
    target = Ledger(postgres_url)
    assert not any(rows_of(target).values())
    target.close()


@pytest.mark.parametrize(
    ("instead", "differs"), [("NULL", "runs (3 rows here, 0 there)"), ("NEW", "runs (3 rows here, 3 there)")]
)
def test_a_copy_that_differs_is_not_kept(old: Ledger, postgres_url: str, instead: str, differs: str) -> None:
    # Given a database that stores no runs, or other titles
    target = with_tables(Ledger(postgres_url))
    change = f"BEGIN NEW.title := 'x'; RETURN {instead}; END"
    make = f"CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$ {change} $$"
    for statement in (make, "CREATE TRIGGER other BEFORE INSERT ON runs FOR EACH ROW EXECUTE FUNCTION other()"):
        target.write(lambda it: it.exec_driver_sql(statement))  # noqa: B023

    # When a ledger is copied there
    code, said = copy(old, postgres_url)

    # Then it fails, says where they differ, and leaves nothing behind
    assert code == 1
    assert f"the copy differs in {differs}, so nothing was copied" in said
    assert not any(rows_of(target).values())
    target.close()


def test_a_ledger_in_use_is_not_copied(old: Ledger, target: Ledger) -> None:
    beat = ProcessBeat("worker@a", "dispatch", "host-a", 41, "1.0", "", 0.0)
    old.write(lambda connection: heartbeats.put(connection, beat))
    code, said = copy(old, target.url.render_as_string(hide_password=False))
    assert code == 3
    assert "in use by process 41 on host-a: stop all processes first" in said


def test_process_of_this_host_that_was_killed_does_not_count(old: Ledger, target: Ledger) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    beat = ProcessBeat("w", "dispatch", "here", killed.pid, "1.0", "", 0.0, details={"space": process_space()})
    old.write(lambda connection: heartbeats.put(connection, beat))

    code, said = copy(old, target.url.render_as_string(hide_password=False))

    assert code == 0, said


@pytest.mark.parametrize(
    ("to", "code", "words_said"),
    [
        ("mysql://x/y", 2, "--to: Runhook writes to SQLite and PostgreSQL, not to mysql"),
        ("postgresql://u:sekret@127.0.0.1:1/x", 3, "no PostgreSQL listens there: start it, or correct --to"),
    ],
)
def test_a_wrong_address_is_one_line(old: Ledger, to: str, code: int, words_said: str) -> None:
    ended, said = copy(old, to)
    assert (ended, words_said in said) == (code, True), said
    assert "sekret" not in said
    assert "Traceback" not in said


def test_the_ledger_itself_is_refused(old: Ledger) -> None:
    code, said = copy(old, str(old.url))
    assert (code, "this is the ledger itself" in said) == (2, True), said
