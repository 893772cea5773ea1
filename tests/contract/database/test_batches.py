"""A batch is written whole, except for the rows that the database refuses."""

import random
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from handlers.contract import Receipt, Refused, Unavailable
from handlers.testing.conformance import make_delivery, sample_run
from tests.support.results_db import ResultsDb, event


def test_refused_row_does_not_harm_its_batch(database: ResultsDb) -> None:
    """Here by a rule that the operator made."""
    database.execute(
        "CREATE TABLE skyvern_runs (run_id TEXT, source TEXT, step_count INTEGER CHECK (step_count < 100), "
        "PRIMARY KEY (run_id, source))"
    )
    batch = [event(f"tsk_{number}", 1, step_count=number * 2) for number in range(64)]
    sink = database.sink()
    sink.add_columns()
    answers = sink.send_many(batch)
    refused = {number: answer for number, answer in enumerate(answers) if not isinstance(answer, Receipt)}
    assert set(refused) == set(range(50, 64))
    assert all(isinstance(answer, Refused) for answer in refused.values())
    assert "refused the row" in str(refused[50])
    assert len(database.rows()) == 50


def test_missing_value_names_its_column_in_words(database: ResultsDb) -> None:
    database.execute(
        "CREATE TABLE skyvern_runs (run_id TEXT, source TEXT, cost_center TEXT NOT NULL, PRIMARY KEY (run_id, source))"
    )
    sink = database.sink()
    sink.add_columns()
    (answer,) = sink.send_many([event("tsk_1", 1)])
    assert isinstance(answer, Refused)
    reason = {
        "sqlite": "SQLite refused the row: NOT NULL constraint failed: skyvern_runs.cost_center",
        "postgresql": "PostgreSQL refused the row: a value is missing in a column that is NOT NULL: "
        "table skyvern_runs, column cost_center",
    }
    assert str(answer) == reason[database.engine.dialect.name]


def test_row_dropped_by_a_trigger_gets_no_receipt(database: ResultsDb) -> None:
    sink = database.sink()
    sink.add_columns()
    if database.engine.dialect.name == "sqlite":
        database.execute(
            "CREATE TRIGGER dropping BEFORE INSERT ON skyvern_runs WHEN new.run_id = 'tsk_3'"
            " BEGIN SELECT RAISE(IGNORE); END"
        )
    else:
        database.execute("CREATE FUNCTION dropping() RETURNS trigger AS 'BEGIN RETURN NULL; END' LANGUAGE plpgsql")
        database.execute(
            "CREATE TRIGGER dropping BEFORE INSERT ON skyvern_runs FOR EACH ROW WHEN (new.run_id = 'tsk_3')"
            " EXECUTE FUNCTION dropping()"
        )
    answers = sink.send_many([event(f"tsk_{number}", 1) for number in range(8)])
    (missing,) = [answer for answer in answers if not isinstance(answer, Receipt)]
    assert missing is answers[3]
    assert isinstance(missing, Unavailable)
    assert "has no row of this run" in str(missing)
    assert len(database.rows()) == 7


def test_rows_are_written_in_key_order(sqlite: ResultsDb) -> None:
    runs = [f"tsk_{number}" for number in range(100, 140)]
    random.Random(2).shuffle(runs)
    sqlite.sink().send_many([event(run, 1) for run in runs])
    assert [row["run_id"] for row in sqlite.query("SELECT run_id FROM skyvern_runs ORDER BY rowid")] == sorted(runs)


def test_outdated_event_of_a_batch_gets_a_note(sqlite: ResultsDb) -> None:
    answers = sqlite.sink().send_many([event("tsk_1", 5), event("tsk_1", 1), event("tsk_2", 1)])
    assert [answer.note for answer in answers if isinstance(answer, Receipt)] == [
        "",
        "the row holds a newer event of this run, and took only what it lacked",
        "",
    ]


def test_a_refusal_quotes_nothing_of_the_row(pg: ResultsDb) -> None:
    pg.execute(
        "CREATE TABLE skyvern_runs (run_id TEXT, source TEXT, failure_reason VARCHAR(3), title TEXT NOT NULL, "
        "PRIMARY KEY (run_id, source))"
    )
    pg.sink().add_columns()
    for run in (sample_run(failure_reason="SECRET"), sample_run(failure_reason="abc", app_url="SECRET")):
        with pytest.raises(Refused) as caught:
            pg.sink().send(make_delivery(run))
        assert "SECRET" not in repr(caught.value)
        assert "SECRET" not in repr(caught.value.__cause__)
    assert "column title" in str(caught.value)


def test_large_batch_is_written(database: ResultsDb) -> None:
    deliveries = [event(f"tsk_{number}", 1, output={"text": "x" * 3_000_000}) for number in range(6)]
    answers = database.sink().send_many(deliveries)
    assert all(isinstance(answer, Receipt) for answer in answers)
    assert len(database.rows()) == 6


def test_a_batch_of_every_size_is_answered_in_order(database: ResultsDb) -> None:
    sink = database.sink(columns={f"c{number}": "output.invoice.total" for number in range(90)})
    for size in (1, 2, 256, 1500):
        runs = [f"tsk_{size}_{number}" for number in range(size)]
        random.Random(size).shuffle(runs)
        answers = sink.send_many([event(run, 1) for run in runs])
        assert [answer.id for answer in answers if isinstance(answer, Receipt)] == [
            f"skyvern_runs/{run}" for run in runs
        ]


@pytest.mark.parametrize("size", [1, 2, 24])
def test_a_row_is_the_same_however_many_are_written_with_it(pg: ResultsDb, size: int) -> None:
    # Given columns of every kind, and rows of which some lack their values
    kinds = ("text", "number", "boolean", "timestamp", "integer", "json")
    columns = {kind: {"path": ["output", kind], "type": kind} for kind in kinds}
    output = {
        "text": "é$1",
        "number": "1234567.89",
        "boolean": True,
        "timestamp": "2026-04-01T12:00:00+02:00",
        "integer": 7,
        "json": {"a": [1, None]},
    }
    sink = pg.sink(columns=columns)
    # When so many are written at once
    sink.send_many([event(f"tsk_{number:02}", 1, output=output if number % 2 == 0 else {}) for number in range(size)])
    # Then each has the values of its event
    expected = ["é$1", Decimal("1234567.89"), True, datetime(2026, 4, 1, 10, tzinfo=UTC), 7, {"a": [1, None]}]
    rows = sorted(pg.rows(), key=lambda row: str(row["run_id"]))
    for number, row in enumerate(rows):
        assert [row[kind] for kind in kinds] == (expected if number % 2 == 0 else [None] * len(kinds))
    assert len(rows) == size
