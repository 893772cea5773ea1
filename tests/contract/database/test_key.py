"""A row is one run of one source: tables of the sink, and an operator's, whose key is the run's id alone."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from handlers.contract import Receipt, Refused
from handlers.database.results_table import ResultsTable
from handlers.database.table import RUN_KEY, RUN_KEY_ALONE, STANDARD
from handlers.testing.conformance import make_delivery, sample_run
from tests.support.results_db import ResultsDb


def of(source: str, run_id: str = "tsk_1", **changes: Any) -> Any:
    return make_delivery(sample_run(run_id, **changes), source=source)


def primary_key(database: ResultsDb) -> list[str]:
    return sa.inspect(database.engine).get_pk_constraint("skyvern_runs")["constrained_columns"]


@pytest.fixture
def by_run_id(database: ResultsDb) -> ResultsDb:
    """A database with a table whose key is the run's id alone."""
    table = ResultsTable("skyvern_runs", STANDARD, database.engine.dialect.name, RUN_KEY_ALONE)
    database.execute(table.create_table())
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


def test_a_table_keyed_by_run_id_refuses_another_source(by_run_id: ResultsDb) -> None:
    sink = by_run_id.sink()
    sink.send(of("skyvern", title="ours"))

    answers = sink.send_many([of("other", title="theirs"), of("skyvern", "tsk_2"), of("skyvern", title="ours")])
    both = sink.send_many([of("skyvern", "tsk_3"), of("other", "tsk_3")])

    refused = [isinstance(answer, Refused) for answer in (*answers, *both)]
    assert refused == [True, False, False, False, True]
    assert "give it the key (run_id, source)" in str(answers[0])
    assert {row["source"] for row in by_run_id.rows()} == {"skyvern"}
    assert primary_key(by_run_id) == ["run_id"]


def test_a_key_of_the_operators_own_is_left_as_it_is(pg: ResultsDb) -> None:
    table = ResultsTable("skyvern_runs", STANDARD, "postgresql", RUN_KEY_ALONE)
    pg.execute(table.create_table())
    pg.execute("ALTER TABLE skyvern_runs DROP CONSTRAINT skyvern_runs_pkey")
    pg.execute("CREATE UNIQUE INDEX mine ON skyvern_runs (run_id)")

    assert pg.sink().missing_columns() == []
    assert isinstance(pg.sink().send(of("skyvern")), Receipt)
