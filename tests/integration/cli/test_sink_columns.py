"""`runhook sink columns`: what a database sink's table lacks, shown, and added when that is asked for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from receiver.cli import build_app
from receiver.errors import UsageError

Runhook = Callable[..., Result]


@pytest.fixture
def runhook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runhook:
    monkeypatch.setenv("RUNHOOK_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    config = {
        "sources": {"skyvern": {"secrets": ["s"]}},
        "sinks": {
            "results": {"type": "database", "url": f"sqlite:///{tmp_path}/results.db"},
            "ops": {"type": "files", "path": "/tmp/never"},
            "away": {"type": "database", "url": f"sqlite:///{tmp_path}/c.json/results.db"},
        },
        "routes": [],
    }
    (tmp_path / "c.json").write_text(json.dumps(config))
    return lambda *arguments: CliRunner().invoke(build_app(), ["sink", *arguments, "--config", "c.json"])


def test_sql_is_only_printed_without_apply(runhook: Runhook, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "results.db")) as database, database:
        runhook("columns", "results", "--apply")
        database.execute("ALTER TABLE skyvern_runs DROP COLUMN downloaded_files")
    shown = runhook("columns", "results")
    assert shown.exit_code == 0
    assert shown.output.splitlines() == [
        "ALTER TABLE skyvern_runs ADD COLUMN downloaded_files TEXT;",
        "results: nothing changed; `runhook sink columns results --apply` runs these statements",
    ]
    (found,) = json.loads(runhook("columns", "results", "--json").output)
    assert found["missing"] == ["ALTER TABLE skyvern_runs ADD COLUMN downloaded_files TEXT"]
    assert "done" in runhook("columns", "results", "--apply").output
    assert runhook("columns", "results", "--apply").output == "results: no column is missing\n"
    with closing(sqlite3.connect(tmp_path / "results.db")) as database, database:
        assert database.execute("SELECT downloaded_files FROM skyvern_runs").fetchall() == []


def test_columns_that_need_a_value_are_named(runhook: Runhook, tmp_path: Path) -> None:
    runhook("columns", "results", "--apply")
    with closing(sqlite3.connect(tmp_path / "results.db")) as database, database:
        database.execute("ALTER TABLE skyvern_runs ADD COLUMN team TEXT NOT NULL DEFAULT 'a'")
        (table,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'skyvern_runs'").fetchone()
        database.execute("DROP TABLE skyvern_runs")
        database.execute(table.replace("DEFAULT 'a'", ""))

    why = "team is NOT NULL without a default, and Runhook does not fill it: rows are refused until it has a default"
    assert runhook("columns", "results").output.splitlines()[0] == f"results: {why}"


def test_a_sink_without_a_table_is_an_error_in_words(runhook: Runhook) -> None:
    for arguments, words in (
        (["ops"], "ops: name one database sink of: results, away"),
        (["nobody"], "unknown sink nobody"),
        (["--apply"], "--apply: name one database sink of: results, away"),
    ):
        done = runhook("columns", *arguments)
        assert isinstance(done.exception, UsageError)
        assert words in str(done.exception)


def test_sql_is_for_the_owner_of_the_table(runhook: Runhook, tmp_path: Path, postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as owner:
        config = json.loads((tmp_path / "c.json").read_text())
        config["sinks"] = {"results": {"type": "database", "url": postgres_url}}
        (tmp_path / "c.json").write_text(json.dumps(config))
        assert "done" in runhook("columns", "--apply").output
        owner.execute("ALTER TABLE skyvern_runs DROP COLUMN summary")
        owner.execute("CREATE ROLE guest LOGIN")
        try:
            owner.execute("GRANT USAGE ON SCHEMA public TO guest")
            owner.execute("GRANT SELECT, INSERT, UPDATE ON skyvern_runs TO guest")
            config["sinks"]["results"]["url"] = postgres_url.replace("postgres@", "guest@")
            (tmp_path / "c.json").write_text(json.dumps(config))
            done = runhook("columns", "results", "--apply")
        finally:
            owner.execute("DROP OWNED BY guest")
            owner.execute("DROP ROLE guest")
    assert done.exit_code == 1
    first, second = done.output.splitlines()
    assert first == "ALTER TABLE skyvern_runs ADD COLUMN summary TEXT;"
    assert second.startswith("results: PostgreSQL: must be owner of table skyvern_runs")
    assert second.endswith("; the table's owner can run the statements above")


def test_without_a_name_all_are_shown_though_one_is_away(runhook: Runhook, tmp_path: Path) -> None:
    done = runhook("columns")
    lines = done.output.splitlines()
    assert done.exit_code == 1
    assert any(line.startswith("results: nothing changed") for line in lines)
    assert any(line.startswith("away: the database file can't be") for line in lines), lines
