"""How far a command is, and from how many on it asks."""

from __future__ import annotations

import io

import pytest
import typer

from receiver.cli import progress
from receiver.cli.options import confirm
from receiver.cli.progress import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_each_change_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine("op_1", 3, every=True) as line:
        for done in (0, 0, 1, 3, 3):
            line.show(done)

    assert capsys.readouterr() == ("op_1: 0 of 3\nop_1: 1 of 3\nop_1: 3 of 3\n", "")


def test_elsewhere_many_small_steps_are_few_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with ProgressLine("deliveries", 1000) as line:
        for done in range(100, 1001, 100):
            line.show(done)
            now[0] += 1.0

    lines = [f"runhook: deliveries: {done} of 1000\n" for done in (100, 600, 1000)]
    assert capsys.readouterr() == ("", "".join(lines))


def test_nothing_to_do_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLine("agents", 0) as line:
        line.show(0)

    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_is_a_bar_that_standard_output_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, result = Terminal(), Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr("sys.stdout", result)
    with ProgressLine("deliveries [b]", 1000) as line:
        line.show(250)
        line.show(1000)

    assert "1000/1000" in shown.getvalue()
    assert "deliveries [b]" in shown.getvalue()
    assert result.getvalue() == ""


@pytest.mark.parametrize(
    ("count", "for_good", "asked"), [(10, True, False), (11, True, True), (1000, False, False), (1001, False, True)]
)
def test_a_person_is_asked_before_many(
    monkeypatch: pytest.MonkeyPatch, count: int, for_good: bool, asked: bool
) -> None:
    questions: list[str] = []
    monkeypatch.setattr(typer, "confirm", lambda question, abort: questions.append(question))

    confirm(count, "Really?", yes=False, for_good=for_good)  # nobody is there
    monkeypatch.setattr("sys.stdin", Terminal())
    confirm(count, "Really?", yes=True, for_good=for_good)
    assert questions == []
    confirm(count, "Really?", yes=False, for_good=for_good)

    assert questions == ["Really?"] * asked
