"""The table is made, extended, and checked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from handlers.contract import Receipt, Unavailable
from handlers.testing.conformance import (
    make_delivery,
)
from tests.support.results_db import ResultsDb, event


def test_the_folder_and_the_table_are_made(tmp_path: Path) -> None:
    database = ResultsDb(f"sqlite:///{tmp_path}/var/deep/results.db")
    database.sink(table="runs").send(make_delivery())
    assert len(database.rows("runs")) == 1
    database.close()


def test_a_table_in_another_schema_is_used(pg: ResultsDb) -> None:
    pg.execute("CREATE SCHEMA analytics")
    sink = pg.sink(table="analytics.Runs", columns={"Order": "output.invoice.number"})
    receipt = sink.send(event("tsk_1", 1))
    sink.send(event("tsk_1", 0))
    assert receipt.id == "analytics.Runs/tsk_1"
    assert pg.row('analytics."Runs"')["Order"] == "2026-17"


def test_columns_that_a_table_lacks_are_added_and_others_are_left_alone(database: ResultsDb) -> None:
    database.execute("CREATE TABLE skyvern_runs (run_id VARCHAR(200) UNIQUE, mine INTEGER DEFAULT 7, status TEXT)")
    database.execute("INSERT INTO skyvern_runs (run_id, status) VALUES ('tsk_1', 'old'), ('tsk_2', 'old')")
    database.sink().send(event("tsk_1", 1))
    rows = database.rows()
    assert [(row["run_id"], row["status"], row["mine"]) for row in rows] == [
        ("tsk_1", "failed", 7),
        ("tsk_2", "old", 7),
    ]


def test_with_create_off_the_table_must_be_there_and_be_whole(database: ResultsDb) -> None:
    sink = database.sink(create=False)
    with pytest.raises(Unavailable, match=r"^there is no table skyvern_runs, and create is false$"):
        sink.send(make_delivery())
    database.execute("CREATE TABLE skyvern_runs (run_id TEXT PRIMARY KEY)")
    with pytest.raises(Unavailable, match=r"lacks the columns source, run_type, .*, and create is false$"):
        sink.send(make_delivery())
    database.sink(create=True).send(make_delivery())
    assert isinstance(sink.send(make_delivery()), Receipt), "put right by the operator, it goes on"


def test_a_table_that_lets_a_run_have_two_rows_is_named_with_the_remedy(database: ResultsDb) -> None:
    database.execute("CREATE TABLE skyvern_runs (run_id TEXT)")
    with pytest.raises(Unavailable, match=r"CREATE UNIQUE INDEX .*ON skyvern_runs \(run_id\)"):
        database.sink().send(make_delivery())


def test_a_table_that_is_dropped_under_us_is_made_again(database: ResultsDb) -> None:
    sink = database.sink()
    sink.send(make_delivery())
    database.execute("DROP TABLE skyvern_runs")
    with pytest.raises(Unavailable):
        sink.send(make_delivery())
    sink.send(make_delivery())
    assert len(database.rows()) == 1


def test_sinks_that_start_together_make_one_table(database: ResultsDb) -> None:
    sinks = [database.sink() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda sink: sink.send_many([make_delivery()]), sinks))
    assert all(isinstance(answer, Receipt) for (answer,) in answers), answers
    assert len(database.rows()) == 6
