"""A row is one run of one source: new tables, and those of earlier releases, whose key is the run's id alone."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from handlers.contract import Receipt, Refused
from handlers.database.statements import Statements
from handlers.database.table import RUN_KEY, RUN_KEY_ALONE, STANDARD
from handlers.testing.conformance import make_delivery, sample_run
from tests.support.results_db import ResultsDb


def of(source: str, run_id: str = "tsk_1", **changes: Any) -> Any:
    return make_delivery(sample_run(run_id, **changes), source=source)


def primary_key(database: ResultsDb) -> list[str]:
    return sa.inspect(database.engine).get_pk_constraint("skyvern_runs")["constrained_columns"]


@pytest.fixture
def earlier(database: ResultsDb) -> ResultsDb:
    """A database with the table of an earlier release, an index and a view on it."""
    table = Statements("skyvern_runs", STANDARD, database.engine.dialect.name, RUN_KEY_ALONE)
    database.execute(table.create_table())
    database.execute("ALTER TABLE skyvern_runs ADD COLUMN note TEXT")
    database.execute("CREATE INDEX by_status ON skyvern_runs (status)")
    database.execute("CREATE VIEW failures AS SELECT * FROM skyvern_runs WHERE status = 'failed'")
    return database


def test_runs_of_two_sources_with_one_id_are_two_rows(database: ResultsDb) -> None:
    sink = database.sink(history=True)

    sink.send_many(
        [of("skyvern", title="ours"), of("other", title="theirs"), of("skyvern", title="ours", step_count=7)]
    )
    sink.send(of("other", title="theirs", step_count=8))

    rows = sorted((row["source"], row["title"], row["step_count"]) for row in database.rows())
    assert rows == [("other", "theirs", 8), ("skyvern", "ours", 7)]
    assert primary_key(database) == list(RUN_KEY)
    assert len(database.rows("skyvern_runs_history")) == 4
    assert database.sink(history=True).missing_columns() == []


def test_a_table_of_an_earlier_release_goes_on_and_no_source_writes_over_another(earlier: ResultsDb) -> None:
    sink = earlier.sink()
    sink.send(of("skyvern", title="ours"))

    answers = sink.send_many([of("other", title="theirs"), of("skyvern", "tsk_2"), of("skyvern", title="ours")])
    both = sink.send_many([of("skyvern", "tsk_3"), of("other", "tsk_3")])

    refused = [isinstance(answer, Refused) for answer in (*answers, *both)]
    assert refused == [True, False, False, False, True]
    assert "`runhook sink columns` shows the SQL" in str(answers[0])
    assert {row["source"] for row in earlier.rows()} == {"skyvern"}
    assert primary_key(earlier) == ["run_id"]


def test_the_command_gives_it_the_key_of_today_and_keeps_all_that_is_there(earlier: ResultsDb) -> None:
    running = earlier.sink()
    running.send(of("skyvern", title="ours", status="failed"))
    earlier.execute("UPDATE skyvern_runs SET note = 'mine'")
    earlier.execute("INSERT INTO skyvern_runs (run_id, status, attempt) VALUES ('tsk_0', 'failed', 1)")
    shown = earlier.sink().missing_columns()
    assert any("PRIMARY KEY (run_id, source)" in sql for sql in shown)
    assert primary_key(earlier) == ["run_id"]  # until it is asked for

    assert earlier.sink().add_columns() == shown

    assert earlier.sink().missing_columns() == []
    assert primary_key(earlier) == list(RUN_KEY)
    running.send_many([of("other", title="theirs", status="failed")])  # a worker that has seen the old key
    running.send_many([of("other", title="theirs", status="failed")])
    rows = sorted((row["run_id"], row["source"], row["title"], row["note"]) for row in earlier.rows())
    assert [row[:2] for row in rows] == [("tsk_0", ""), ("tsk_1", "other"), ("tsk_1", "skyvern")]
    assert [row[3] for row in rows] == [None, None, "mine"]
    assert len(earlier.query("SELECT * FROM failures")) == 3
    assert {index["name"] for index in sa.inspect(earlier.engine).get_indexes("skyvern_runs")} == {"by_status"}


def test_a_key_of_the_operators_own_is_left_as_it_is(pg: ResultsDb) -> None:
    table = Statements("skyvern_runs", STANDARD, "postgresql", RUN_KEY_ALONE)
    pg.execute(table.create_table())
    pg.execute("ALTER TABLE skyvern_runs DROP CONSTRAINT skyvern_runs_pkey")
    pg.execute("CREATE UNIQUE INDEX mine ON skyvern_runs (run_id)")

    assert pg.sink().missing_columns() == []
    assert isinstance(pg.sink().send(of("skyvern")), Receipt)
