"""`runhook …` in the process of the test, on a ledger of its own.

home   an empty directory in which nothing is set; COLUMNS is wide, and the ledger is ./ledger.db
book   that ledger
runhook   `runhook …` on that ledger; returns its output, raises its errors
said   exit code, output, and errors without the line that says what is read
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.ledger import Ledger
from tests.support.command import Capture, Runhook, Said, run_command, run_main
from tests.support.ledger import with_tables

VARIABLES = ("RUNHOOK_CONFIG", "RUNHOOK_URL", "RUNHOOK_KEY", "REDIS_URL", "PUBLIC_URL", "SKYVERN_API_KEY")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*VARIABLES, "SKYVERN_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNHOOK_DATA", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def book(home: Path) -> Iterator[Ledger]:
    ledger = with_tables(Ledger(f"sqlite:///{home}/ledger.db"))
    yield ledger
    ledger.close()


@pytest.fixture
def runhook(book: Ledger) -> Runhook:
    return run_command


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Callable[..., Said]:
    def run(*arguments: str) -> Said:
        code, out, err = run_main(monkeypatch, capsys, *arguments)
        lines = err.splitlines(keepends=True)
        where = ("runhook: ledger: ", "runhook: service: ")
        return code, out, "".join(line for line in lines if not line.startswith(where))

    return run
