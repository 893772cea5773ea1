"""`runhook sink columns`: what a database sink's table lacks, shown, and added when that is asked for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from receiver.cli import build_app
from receiver.errors import RunhookError, UsageError

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
    return lambda *arguments: CliRunner().invoke(build_app("sink"), ["sink", *arguments, "--config", "c.json"])


def test_the_sql_is_shown_and_nothing_changes_until_it_is_asked_for(runhook: Runhook, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "results.db") as database:
        runhook("columns", "results", "--apply")
        database.execute("ALTER TABLE skyvern_runs DROP COLUMN downloaded_files")
    shown = runhook("columns", "results")
    assert shown.exit_code == 0
    assert shown.output.splitlines() == [
        "ALTER TABLE skyvern_runs ADD COLUMN downloaded_files TEXT;",
        "nothing was changed; `runhook sink columns results --apply` does this",
    ]
    assert json.loads(runhook("columns", "results", "--json").output)["missing"] == [
        "ALTER TABLE skyvern_runs ADD COLUMN downloaded_files TEXT"
    ]
    assert "done" in runhook("columns", "results", "--apply").output
    assert runhook("columns", "results", "--apply").output == "results: nothing is missing\n"
    with sqlite3.connect(tmp_path / "results.db") as database:
        assert database.execute("SELECT downloaded_files FROM skyvern_runs").fetchall() == []


def test_a_sink_without_a_table_or_one_that_is_away_is_an_error_in_words(runhook: Runhook) -> None:
    for name, error, words in (
        ("ops", UsageError, "ops is no database sink; those here are results, away"),
        ("nobody", UsageError, "no sink is called nobody"),
        ("away", RunhookError, "away: "),
    ):
        done = runhook("columns", name)
        assert isinstance(done.exception, error)
        assert words in str(done.exception)
