"""`runhook …` in the process of the test."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest import mock

import pytest
from typer.testing import CliRunner

from receiver.cli import build_app, main

Runhook = Callable[..., str]
Capture = pytest.CaptureFixture[str]
# Exit code, output, errors.
Said = tuple[int, str, str]


def run_command(*arguments: str, environ: Mapping[str, str] | None = None) -> str:
    """Run a command that ends with 0, and return what it prints to standard output. Raises its errors.

    `environ`: variables besides those of this process.
    """
    done = CliRunner().invoke(build_app(), list(arguments), env=environ)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: Capture, *arguments: object) -> Said:
    """Run `runhook ARGUMENTS` as a terminal does: exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["runhook", *map(str, arguments)])
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def call_command(
    *arguments: str, environ: Mapping[str, str], directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as in a process of its own with these variables in this directory, and as that would end. Half a
    second of a core is what such a process takes to start."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        mock.patch.dict(os.environ, environ, clear=True),
        mock.patch.object(sys, "argv", ["runhook", *arguments]),
        contextlib.chdir(directory or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    said = [each.buffer.getvalue().decode() for each in (out, err)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(["runhook", *arguments], code, *said)
