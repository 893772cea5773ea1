"""`python -m bench`: what fails is reported, the others go on, and all of it is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench.__main__ import PARTS, Part, report

WORKS = Part("It works", "ingest", "--help", "--help")
FAILS = Part("It fails", "ingest", "--no-such-option", "")
HANGS = Part("It hangs", "ingest", "--help", "", limit=0.0)


def test_a_part_that_fails_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "RESULTS.json")
    monkeypatch.setattr(bench, "PARTS", {"fails": FAILS, "hangs": HANGS, "works": WORKS})
    monkeypatch.setattr("sys.argv", ["bench"])

    status = bench.main()

    found = json.loads((tmp_path / "RESULTS.json").read_text())
    written = (tmp_path / "RESULTS.md").read_text()
    assert status == 1
    assert [found[name]["failed"] for name in ("fails", "hangs", "works")] == ["exit status 2", "ended after 0 s", ""]
    assert "**It failed: exit status 2.**" in written
    assert "usage: ingest.py" in written.partition("## It works")[2]
    assert "fails, hangs failed." in capsys.readouterr().out


def test_other_options_are_for_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "RESULTS.json")
    monkeypatch.setattr("sys.argv", ["bench", "ingest", "--options=--help"])

    assert bench.main() == 0

    assert list(tmp_path.iterdir()) == []


def test_a_table_stays_one_and_all_else_is_shown_as_it_was_printed() -> None:
    part = {"command": "python -m bench.ingest", "failed": "", "seconds": 1.5, "machine": "2 cores"}

    text = report({"ingest": {**part, "printed": "| a | b |\n|---|---|\n| 1 | 2 |\nrq failed: <why>\n"}})

    assert f"## {PARTS['ingest'].says}\n\n`python -m bench.ingest`, 1.5 s; 2 cores\n\n| a | b |\n|---|---|\n" in text
    assert "| 1 | 2 |\n\n```text\nrq failed: <why>\n```\n" in text


def test_all_parts_together_end_within_a_quarter_of_an_hour_but_for_those_that_hang() -> None:
    programs = {each.module for each in PARTS.values()}

    assert all((bench.ROOT / "bench" / f"{name}.py").exists() or name == "peers" for name in programs)
    assert all(each.limit <= 480 for each in PARTS.values())
