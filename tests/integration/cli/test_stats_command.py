"""`runhook stats`: a table for people, and the same for programs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from receiver.cli import build_app
from receiver.ledger import Ledger, totals
from tests.support.ledger import new_event, record, with_tables


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory of a ledger with three runs, two of which failed for one reason."""
    for name in ("RUNHOOK_URL", "RUNHOOK_KEY", "DATABASE_URL", "RUNHOOK_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("sources: {skyvern: {secrets: [s]}}\n")
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    for n, status in enumerate(("completed", "failed", "failed")):
        reason = f"timeout after {n} s" if status == "failed" else None
        record(ledger, new_event(f"r{n}", status=status, failure_reason=reason), now=time.time() - 60 + n)
    ledger.close()
    return tmp_path


def stats(data: Path, *arguments: str) -> Result:
    where = ("--data", str(data), "--config", str(data / "c.yaml"))
    return CliRunner().invoke(build_app(), ["stats", *arguments, *where])


def test_people_see_how_many_there_were_and_how_they_ended(data: Path) -> None:
    shown = stats(data, "--by", "status,reason")
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[1][:5] == ["all", "3", "1", "3", "33.3"]
    assert lines[2][:8] == ["failed", "·", "timeout", "after", "#", "s", "2", "0"]
    assert lines[3][:6] == ["completed", "·", "-", "1", "1", "1"]


def test_programs_get_rows(data: Path) -> None:
    shown = stats(data, "--by", "status", "--bucket", "7d", "-o", "jsonl")
    rows = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [(row["key"], row["count"]) for row in rows] == [
        ({}, 3),
        ({"status": "failed"}, 2),
        ({"status": "completed"}, 1),
    ]
    assert [row["at"] is None for row in rows] == [True, False, False]


def test_csv_has_a_column_for_each_group(data: Path) -> None:
    shown = stats(data, "--by", "status,reason", "-o", "csv")
    header, total, first, *_ = shown.stdout.splitlines()
    assert header.startswith("status,reason,at,count,")
    assert total.startswith(",,,3,")
    assert first.startswith("failed,timeout after # s,,2,")


def test_what_was_left_out_is_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "SCAN", 1)
    shown = stats(data, "--by", "status", "--top", "1")
    assert "only changes since" in shown.stderr
    monkeypatch.undo()
    assert "1 runs are in smaller groups" in stats(data, "--by", "status", "--top", "1").stderr
