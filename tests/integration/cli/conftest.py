"""`runhook …` in the process of the test, as its main function ends.

said   exit code, output, and errors without the line that says what is read
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from receiver.cli import main
from tests.support.command import Said


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`runhook …`: exit code, output, errors without the line that says what is read."""

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["runhook", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        lines = captured.err.splitlines(keepends=True)
        where = ("runhook: ledger: ", "runhook: service: ")
        return code, captured.out, "".join(line for line in lines if not line.startswith(where))

    return run
