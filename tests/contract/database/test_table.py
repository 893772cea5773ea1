"""The table is made, extended by a command, and checked."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from handlers.contract import Receipt, Refused, Unavailable
from handlers.database.table import STANDARD
from handlers.testing.conformance import make_delivery, sample_run
from tests.support.results_db import ResultsDb, event


def _make_first_release(database: ResultsDb) -> None:
    """Make the table as it was before there were the later columns, with a view on it."""
    database.sink().add_columns()
    for column in sorted(LATER):
        database.execute(f"ALTER TABLE skyvern_runs DROP COLUMN {column}")
    database.execute("CREATE VIEW failures AS SELECT * FROM skyvern_runs WHERE status = 'failed'")


def _columns(database: ResultsDb, table: str = "skyvern_runs") -> set[str]:
    return {column["name"] for column in sa.inspect(database.engine).get_columns(table)}


ALL = {column.name for column in STANDARD}
LATER = {"merged_from", "prompt", "summary", "url", "parameters", "downloaded_files"}


def test_the_folder_and_the_table_are_made(tmp_path: Path) -> None:
    database = ResultsDb(f"sqlite:///{tmp_path}/var/deep/results.db")
    database.sink(table="runs").send(make_delivery())
    assert len(database.rows("runs")) == 1
    made = [tmp_path / "var", *(tmp_path / "var").rglob("*")]
    assert {path.name for path in made} >= {"results.db", "results.db-wal", "results.db.lock"}
    assert {path.name for path in made if path.stat().st_mode & 0o077} == set()  # results are nobody else's
    database.close()


def test_check_of_an_empty_database_is_well(pg: ResultsDb) -> None:
    assert pg.sink(history=True).check() == "connected to postgresql; the table skyvern_runs is made with the first row"
    assert "its tables lack something" in pg.sink(create=False).check()


def test_a_table_in_another_schema_is_used(pg: ResultsDb) -> None:
    pg.execute("CREATE SCHEMA analytics")
    sink = pg.sink(table="analytics.Runs", columns={"Order": "output.invoice.number"}, history=True)
    receipt = sink.send(event("tsk_1", 1))
    sink.send(event("tsk_1", 0))
    assert receipt.id == "analytics.Runs/tsk_1"
    assert pg.row('analytics."Runs"')["Order"] == "2026-17"
    assert len(pg.rows('analytics."Runs_history"')) == 2


def test_table_of_earlier_release_is_used_and_noted_once(database: ResultsDb) -> None:
    _make_first_release(database)
    before = _columns(database)
    sink = database.sink()
    files = {"downloaded_files": [{"filename": "a.pdf"}]}
    note = sink.send(event("tsk_1", 1, **files)).note
    assert note.startswith("the table skyvern_runs lacks the columns summary, prompt, ")
    assert "`runhook sink columns results`" in note
    assert sink.send(event("tsk_1", 2, output=None)).note == "", "told once"
    assert _columns(database) == before
    assert (database.row()["output"], database.row()["modified_at"].minute) == (event("tsk_1", 1).run["output"], 2)
    assert len(database.query("SELECT * FROM failures")) == 1


def test_command_adds_columns_while_sinks_of_both_releases_run(
    database: ResultsDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    _make_first_release(database)
    running = database.sink()
    files = [{"filename": "a.pdf"}]
    running.send(event("tsk_1", 1, downloaded_files=files))
    shown = database.sink().missing_columns()
    assert len(shown) == len(LATER)
    assert all(sql.startswith("ALTER TABLE skyvern_runs ADD COLUMN ") for sql in shown)
    assert database.sink().add_columns() == shown
    assert database.sink().missing_columns() == database.sink().add_columns() == []
    assert _columns(database) == ALL
    running.send(event("tsk_2", 1, downloaded_files=files))
    assert database.rows()[1]["downloaded_files"] is None, "columns are looked for once a minute, not at each batch"
    monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + 61)
    running.send(event("tsk_3", 1, downloaded_files=files))
    assert database.rows()[2]["downloaded_files"] == files
    # As the first release writes: it names its own columns.
    database.execute("INSERT INTO skyvern_runs (run_id, status, attempt) VALUES ('tsk_0', 'failed', 1)")
    assert len(database.query("SELECT * FROM failures")) == 4


def test_a_replay_fills_the_columns_that_were_added(database: ResultsDb) -> None:
    _make_first_release(database)
    database.execute("DROP VIEW failures")
    database.execute("ALTER TABLE skyvern_runs DROP COLUMN via")
    delivery = event("tsk_1", 1, downloaded_files=[{"filename": "a.pdf"}])
    database.sink().send(delivery)
    database.sink().add_columns()
    database.sink().send(delivery)
    assert (database.row()["downloaded_files"], database.row()["via"]) == ([{"filename": "a.pdf"}], "webhook")


def test_a_table_of_somebody_else_is_used_and_not_altered(pg: ResultsDb) -> None:
    _make_first_release(pg)
    pg.execute("CREATE ROLE writer LOGIN")
    pg.execute("GRANT USAGE ON SCHEMA public TO writer")
    pg.execute("GRANT SELECT, INSERT, UPDATE ON skyvern_runs TO writer")
    guest = ResultsDb(pg.url.replace("postgres@", "writer@"))
    try:
        assert isinstance(guest.sink().send(event("tsk_1", 1)), Receipt)
        assert len(guest.sink().missing_columns()) == len(LATER)
        with pytest.raises(Unavailable, match="must be owner of table skyvern_runs"):
            guest.sink().add_columns()
        assert _columns(pg) == ALL - LATER
    finally:
        guest.close()
        pg.execute("DROP OWNED BY writer")
        pg.execute("DROP ROLE writer")


def test_other_columns_are_kept_and_other_types_reported(pg: ResultsDb) -> None:
    _make_first_release(pg)
    pg.execute("ALTER TABLE skyvern_runs ADD COLUMN mine INTEGER DEFAULT 7, ADD COLUMN parameters TEXT DEFAULT 'x'")
    sink = pg.sink()
    assert "another type are not written: parameters (TEXT)" in sink.send(event("tsk_1", 1, parameters={"a": 1})).note
    sink.add_columns()
    pg.sink().send(event("tsk_1", 2, parameters={"a": 1}, summary="Done"))
    assert {name: pg.row()[name] for name in ("mine", "parameters", "summary")} == {
        "mine": 7,
        "parameters": "x",
        "summary": "Done",
    }


def test_table_needs_the_columns_that_order_events(database: ResultsDb) -> None:
    database.execute("CREATE TABLE skyvern_runs (run_id VARCHAR(200), mine INTEGER DEFAULT 7, status TEXT)")
    database.execute("INSERT INTO skyvern_runs (run_id, status) VALUES ('tsk_1', 'old'), ('tsk_2', 'old')")
    sink = database.sink()
    with pytest.raises(Unavailable, match=r"lacks the required columns source, attempt, .*: `runhook sink col"):
        sink.send(event("tsk_1", 1))
    database.sink().add_columns()
    database.execute("UPDATE skyvern_runs SET source = 'skyvern'")
    database.execute("CREATE UNIQUE INDEX mine ON skyvern_runs (run_id, source)")
    sink.send(event("tsk_1", 1))
    rows = database.rows()
    assert [(row["run_id"], row["status"], row["mine"]) for row in rows] == [
        ("tsk_1", "failed", 7),
        ("tsk_2", "old", 7),
    ]


def test_ordering_column_of_another_type_is_a_clear_error(pg: ResultsDb) -> None:
    pg.execute("CREATE TABLE skyvern_runs (run_id TEXT PRIMARY KEY, attempt TEXT)")
    pg.sink().add_columns()
    with pytest.raises(Unavailable, match=r"has the wrong type in the required columns attempt \(TEXT\)"):
        pg.sink().send(event("tsk_1", 1))


def test_operators_column_wins_over_a_standard_column(database: ResultsDb) -> None:
    sink = database.sink(columns={"url": "output.invoice.number", "Summary": {"path": "step_count", "type": "integer"}})
    sink.send(make_delivery(sample_run("tsk_1", url="https://shop.example", summary="Done")))
    row = database.row()
    assert (row["url"], row["Summary"]) == ("2026-17", 3)
    assert "summary" not in row


def test_without_create_the_table_and_own_columns_must_exist(database: ResultsDb) -> None:
    sink = database.sink(create=False, columns={"total": "output.invoice.total"})
    with pytest.raises(Unavailable, match=r"^the table skyvern_runs does not exist, and create is false$"):
        sink.send(make_delivery())
    database.sink().add_columns()
    with pytest.raises(Unavailable, match=r"lacks the columns total, and create is false: `runhook sink columns"):
        sink.send(make_delivery())
    assert sink.add_columns() == ["ALTER TABLE skyvern_runs ADD COLUMN total TEXT"]
    assert isinstance(sink.send(make_delivery()), Receipt), "put right by the operator, it goes on"


def test_own_columns_are_added_when_configured(database: ResultsDb) -> None:
    _make_first_release(database)
    database.sink(columns={"total": {"path": "output.invoice.total", "type": "integer"}}).send(event("tsk_1", 1))
    assert database.row()["total"] == 1500
    assert _columns(database) == ALL - LATER | {"total"}


def test_the_command_makes_tables_that_are_not_there(database: ResultsDb) -> None:
    sink = database.sink(history=True)
    assert len(sink.missing_columns()) == len(sink.add_columns()) == 3
    assert database.rows() == database.rows("skyvern_runs_history") == []
    assert _columns(database, "skyvern_runs_history") == ALL


def test_table_without_unique_key_is_reported_with_remedy(database: ResultsDb) -> None:
    database.execute("CREATE TABLE skyvern_runs (run_id TEXT)")
    database.sink().add_columns()
    with pytest.raises(Unavailable, match=r"CREATE UNIQUE INDEX .*ON skyvern_runs \(run_id, source\)"):
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
    sinks = [database.sink(history=True) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda sink: sink.send_many([make_delivery()]), sinks))
    assert all(isinstance(answer, Receipt) for (answer,) in answers), answers
    assert len(database.rows()) == len(database.rows("skyvern_runs_history")) == 6


def test_erase_deletes_the_run_from_both_tables_and_no_other(database: ResultsDb) -> None:
    # Given runs with a history, and the same id from another source
    sink = database.sink(history=True)
    first = make_delivery(sample_run("tsk_1"))
    receipt = sink.send(first).to_dict()
    sink.send(make_delivery(sample_run("tsk_2")))
    sink.send(make_delivery(sample_run("tsk_1"), source="other"))

    # When one is erased by a sink that keeps no history any more
    database.sink().erase(first.source, "tsk_1", receipt)

    # Then only its rows are gone
    for table in ("skyvern_runs", "skyvern_runs_history"):
        left = sorted((row["run_id"], row["source"]) for row in database.rows(table))
        assert left == [("tsk_1", "other"), ("tsk_2", first.source)]


def test_erase_of_a_row_that_can_not_be_deleted_says_why(pg: ResultsDb) -> None:
    receipt = pg.sink().send(make_delivery(sample_run("tsk_1"))).to_dict()
    with pytest.raises(Refused, match="its row is in the table skyvern_runs"):
        pg.sink(table="new_runs").erase("skyvern", "tsk_1", receipt)
    pg.execute("CREATE TABLE notes (run_id text, source text, FOREIGN KEY (run_id, source) REFERENCES skyvern_runs)")
    pg.execute("INSERT INTO notes SELECT run_id, source FROM skyvern_runs")

    with pytest.raises(Refused, match="a foreign key forbids it: table notes"):
        pg.sink().erase("skyvern", "tsk_1", receipt)


def test_erase_of_a_database_that_is_gone_makes_none(tmp_path: Path) -> None:
    database = ResultsDb(f"sqlite:///{tmp_path}/gone.db")
    database.sink().erase("skyvern", "tsk_1", {"id": "skyvern_runs/tsk_1"})
    database.close()

    assert list(tmp_path.iterdir()) == []
