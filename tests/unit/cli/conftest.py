"""`runhook …` in an empty directory in which nothing is set."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from receiver.config.settings import Settings
from tests.support.command import run_main

VARIABLES = (*Settings.from_env({}).summary(), "SKYVERN_API_KEY")


class Result(NamedTuple):
    """Exit code, output, errors."""

    code: int
    out: str
    err: str


Runhook = Callable[..., Result]


@pytest.fixture
def runhook(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Runhook:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path, environ: Mapping[str, str] | None = None) -> Result:
        for name, value in (environ or {}).items():
            monkeypatch.setenv(name, value)
        return Result(*run_main(monkeypatch, capsys, *arguments))

    return run
