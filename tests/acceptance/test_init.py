"""From an empty folder to the first result: `runhook init`, `dev`, `trigger`, as a person calls them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from tests.servers.dev import Dev
from tests.support.command import call_command
from tests.support.waiting import eventually


class DevHere(Dev):
    """`runhook dev` with nothing but the files of its folder."""

    def options(self, directory: Path) -> list[str]:
        self.data = directory / "var"
        return []


def runhook(folder: Path, *arguments: str, **environ: str) -> str:
    variables: Mapping[str, str] = {"PATH": os.environ["PATH"], "HOME": str(folder), **environ}
    done = call_command(*arguments, environ=variables, directory=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(path: Path) -> int:
    """How many rows the table of results has."""
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM skyvern_runs").fetchone()[0])
        except sqlite3.OperationalError:  # it is being created
            return 0


def test_a_new_folder_delivers_its_first_result(tmp_path: Path) -> None:
    # Given a folder that was set up without a key, and with destinations that have no value yet
    runhook(tmp_path, "init", "--yes", "--with", "slack,s3,postgres,http")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # When it is started as the last lines say, and a sample is sent
    dev = DevHere(tmp_path, config=before["runhook.yaml"].decode()).ready()
    try:
        sent = runhook(tmp_path, "trigger", "--url", f"http://127.0.0.1:{dev.port}")
        assert sent.startswith("202  evt_")
        # Then its row and its folder are there
        eventually(lambda: rows(tmp_path / "var" / "results.db"), what=lambda: dev.log)
        eventually(lambda: list((tmp_path / "var" / "archive").rglob("run.json")), what=lambda: dev.log)
    finally:
        dev.end()
    # And the three files are as they were
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    # And the config is right with the key that `dev` has made
    assert "slack" not in runhook(tmp_path, "check")
