"""The forms of a list: what programs get, and what a person reads."""

import csv
import io
import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.cli.output import Form, print_rows, print_table, show_when

ROW = {
    "id": "evt_1",
    "title": '=HYPERLINK("http://x"), and\n"more"',
    "received_at": 1_795_512_600.25,
    "lease_until": None,
    "attempt": 3,
    "unrouted": True,
    "labels": {"team": "Bücher"},
}
IN_JSON = {**ROW, "received_at": "2026-11-24T09:30:00.250000Z"}
COLUMNS = {"event": "id", "labels": lambda row: " ".join(row["labels"])}


def printed(capsys: pytest.CaptureFixture[str], form: Form, *rows: Mapping[str, Any]) -> str:
    print_rows(iter(rows), COLUMNS, "no such rows", form)
    return capsys.readouterr().out


def test_ids_are_cut_unless_two_would_look_alike(capsys: pytest.CaptureFixture[str]) -> None:
    # Given ids of one second, of which two begin alike as far as they are shown
    ids = ["evt_g855e2ffbc12" + "0" * 20, "evt_g855e2ffbc12" + "1" * 20, "evt_g855e2ffaaaa" + "0" * 20]
    # When they are listed, one of them twice
    print_rows([{"id": each} for each in (*ids, ids[2])], {"event": "id"}, "none", Form.TABLE)
    # Then they are complete, and cut where they differ
    assert capsys.readouterr().out.split() == ["event", *ids, ids[2]]
    print_rows([{"id": each} for each in ids[1:]], {"event": "id"}, "none", Form.TABLE)
    assert capsys.readouterr().out.split() == ["event", "evt_g855e2ffbc12", "evt_g855e2ffaaaa"]


def test_json_is_one_array(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, Form.JSON, ROW, ROW)) == [IN_JSON, IN_JSON]
    assert printed(capsys, Form.JSON) == "[]\n"


def test_json_lines_are_an_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, Form.JSONL, ROW, ROW).splitlines()

    assert [json.loads(line) for line in lines] == [IN_JSON, IN_JSON]
    assert printed(capsys, Form.JSONL) == ""


def test_csv_has_every_member_and_each_value_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    head, row = csv.reader(io.StringIO(printed(capsys, Form.CSV, ROW), newline=""))

    assert head == list(ROW)
    assert row == ["evt_1", ROW["title"], IN_JSON["received_at"], "", "3", "true", '{"team":"B\\u00fccher"}']


@pytest.mark.parametrize("form", [Form.JSONL, Form.CSV])
def test_rows_are_printed_while_they_come(capsys: pytest.CaptureFixture[str], form: Form) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield ROW
        assert "evt_1" in capsys.readouterr().out
        yield {**ROW, "id": "evt_2"}

    print_rows(rows(), COLUMNS, "", form)

    assert "evt_2" in capsys.readouterr().out


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_from_csv_as_it_was(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.StringIO(newline=""))
        print_rows([{"a": text, "b": "end"}], {}, "", Form.CSV)
        import sys

        shown = sys.stdout.getvalue()  # type: ignore[attr-defined]
    assert list(csv.reader(io.StringIO(shown, newline=""))) == [["a", "b"], [text, "end"]]


@pytest.mark.parametrize(
    ("ahead", "shown"),
    [(-2, "2 s ago"), (-119, "119 s ago"), (-180, "3 min ago"), (-7200, "2 h ago"), (200_000, "in 2 d")],
)
def test_a_time_is_relative_on_a_terminal_and_iso_elsewhere(
    monkeypatch: pytest.MonkeyPatch, ahead: float, shown: str
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_795_512_600.0)
    moment = 1_795_512_600.0 + ahead

    assert show_when(moment).startswith("2026-11-2")
    assert show_when("2026-11-24T09:30:00.250000Z") == "2026-11-24T09:30:00Z"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert show_when(moment) == shown
    assert show_when(None) == ""


NAMES = ["event", "run", "state", "receipt"]
ROWS = [["evt_1", "tsk_1", "delivered", "s3://runs/a/very/long/receipt/indeed/evt_1"], ["evt_2", "tsk_2", "dead", ""]]


def test_row_is_one_line_unless_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    print_table(NAMES, ROWS, "nothing")
    head, first, second = capsys.readouterr().out.splitlines()
    assert (head.split(), first.split(), second) == (NAMES, ROWS[0], "evt_2  tsk_2  dead")

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(NAMES, ROWS, "nothing")
    lines = capsys.readouterr().out.splitlines()
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 40 for line in lines)
    assert len(lines) > 3


def test_payload_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(NAMES, [["evt_1", "tsk_1", "dead", "\nevt_2  tsk_2  delivered\x1b[2J"]], "")

    shown = capsys.readouterr().out
    assert (shown.count("\n"), "\x1b" in shown) == (2, False)
