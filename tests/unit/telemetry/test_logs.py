"""Log lines: people read them, and a parser of logfmt takes each apart."""

import json
import logging
import math
import re
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.telemetry.logs import Fields, Formatter, quoted, say, set_up
from tests.support.formats import parse_log_line


def line_of(
    message: str, *arguments: Any, name: str = "runhook.ingest", exc_info: Any = None, form: str = "logfmt"
) -> str:
    record = logging.LogRecord(name, logging.WARNING, "", 0, message, arguments, exc_info)
    return Formatter(form).format(record)


@pytest.mark.parametrize(
    ("message", "arguments", "event", "fields"),
    [
        ("ingest.spool_drained", (), "ingest.spool_drained", {}),
        ("ingest.bug task=drain", (), "ingest.bug", {"task": "drain"}),
        (
            "ingest.redis_away reason=%s: %s",
            ("Error 111: no one = home", "events go to the spool"),
            "ingest.redis_away",
            {"reason": "Error 111: no one = home", "note": "events go to the spool"},
        ),
        ("ingest.redis_back: events go to Redis", (), "ingest.redis_back", {"note": "events go to Redis"}),
        ("sink.well again", (), "sink.well", {"note": "again"}),
        ("clock.trouble %s", (Fields(redis="is away"),), "clock.trouble", {"redis": "is away"}),
        ("%s.paused %s: again", ("dispatch", Fields(kept=3)), "dispatch.paused", {"kept": "3", "note": "again"}),
        ("breaker.%s lane=%s reason=%s", ("open", "ops", ""), "breaker.open", {"lane": "ops", "reason": ""}),
        ("dispatch.recorded events=%d ms=%.1f", (3, 2.25), "dispatch.recorded", {"events": "3", "ms": "2.2"}),
        ("watch.trouble source=%s %s", ("s", "a=b"), "watch.trouble", {"source": "s", "note": "a=b"}),
        ("ingest.refused path=%.80r", ("/a b",), "ingest.refused", {"path": "'/a b'"}),
        ("a.b found=%s", (None,), "a.b", {"found": "None"}),
        ("%s: a job failed: %s", ("ops", "KeyError"), None, {"msg": "ops: a job failed: KeyError"}),
        ("it is not a.b c=%s", ("d",), None, {"msg": "it is not a.b c=d"}),
        ("a.b c=%d", ("no number",), None, {"msg": "a.b c=%d", "arguments": "('no number',)"}),
        ("a.b c=%s", ("1", "2"), None, {"msg": "a.b c=%s", "arguments": "('1', '2')"}),
    ],
)
def test_a_message_becomes_an_event_and_fields(
    message: str, arguments: tuple[Any, ...], event: str | None, fields: dict[str, str]
) -> None:
    assert parse_log_line(line_of(message, *arguments)) == (event, fields)


def test_a_line_of_a_library_is_a_message() -> None:
    assert parse_log_line(line_of("a.b c=%s", "d", name="uvicorn.error")) == (None, {"msg": "a.b c=d"})


def test_a_traceback_is_a_field_of_the_same_line() -> None:
    try:
        raise ValueError('"quoted"\nand more')
    except ValueError:
        line = line_of("ingest.bug", exc_info=sys.exc_info())

    event, fields = parse_log_line(line)
    assert event == "ingest.bug"
    assert fields["traceback"].startswith("Traceback (most recent call last):\n")
    assert fields["traceback"].endswith('ValueError: "quoted"\nand more')


def test_a_traceback_shows_no_password_of_an_address() -> None:
    try:
        raise ValueError("postgresql://u:sekret@h/db can't be reached, password=sekret")
    except ValueError:
        lines = [line_of("ledger.bug", exc_info=sys.exc_info(), form=form) for form in ("logfmt", "json")]

    assert "can't be reached" in lines[0]
    assert "sekret" not in "".join(lines)


def test_json_has_numbers_and_the_event_as_message() -> None:
    line = line_of("deliver.settled sink=%s %s ms=%.1f id=%s: %s", "ops", Fields(sent=3), 2.26, "12", "é", form="json")

    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "warning", "logger": "runhook.ingest", "message": "deliver.settled", "sink": "ops", "sent": 3,
        "ms": 2.3, "id": "12", "note": "é",
    }  # fmt: skip


def test_json_of_a_text_without_event_is_its_message() -> None:
    assert (
        json.loads(line_of("%s of a library", "a line", name="boto3", form="json"))["message"] == "a line of a library"
    )


def test_json_keeps_its_own_members() -> None:
    found = json.loads(line_of("a.b level=%s time=%s event=%s n=%s", "x", "y", "evt_1", math.nan, form="json"))

    assert (found["level"], found["event"], found["n"]) == ("warning", "evt_1", "nan")
    assert found["time"] != "y"


@pytest.mark.parametrize("form", ["logfmt", "json"])
@pytest.mark.parametrize(
    "letter", ["\x00", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u202e", "\u2066", "\u200f", "\ufeff"]
)
def test_letters_that_steer_a_terminal_are_escaped(form: str, letter: str) -> None:
    assert letter not in line_of(f"a.b c=%s d=%s: {letter}", f"x{letter}y", f"two {letter} words", form=form)
    assert letter not in line_of(f"text {letter}", name="boto3", form=form)


@given(st.text())
@example("0:")
def test_json_lines_are_one_line_of_ascii(text: str) -> None:
    line = line_of("a.b c=%s", text, form="json")

    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["c"] == text


@given(st.text())
def test_whatever_a_value_holds_stays_in_its_field(text: str) -> None:
    assert "\n" not in (line := line_of("a.b c=%s d=%s", text, "after"))
    assert parse_log_line(line)[1]["d"] == "after"


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"], include_characters=" ")))
def test_a_value_can_be_had_back(text: str) -> None:
    shown = quoted(text)
    assert (shown[1:-1].replace(r"\"", '"').replace("\\\\", "\\") if shown[:1] == '"' else shown) == text


@pytest.mark.parametrize(("level", "expected"), [("debug", "DIWE"), ("info", "IWE"), ("warning", "WE"), ("error", "E")])
def test_level_says_which_lines_are_logged(level: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up(level)

    for name in ("runhook.ingest", "httpx2"):
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(number, "a.b n=%s", name)

    logged = [line.split()[1:3] for line in capsys.readouterr().err.splitlines()]
    assert "".join(each[0] for each, name in logged if name == "runhook.ingest") == expected
    assert "".join(each[0] for each, name in logged if name == "httpx2") == expected.lstrip("DI")


@pytest.mark.parametrize(("form", "expected"), [("logfmt", "runhook: a start\n"), ("json", "a start")])
def test_lines_about_a_start_have_the_form_of_the_log(
    form: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up("error", form)

    say("a start")

    printed = capsys.readouterr().err
    assert (json.loads(printed)["message"] if form == "json" else printed) == expected
