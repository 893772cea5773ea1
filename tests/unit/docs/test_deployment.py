"""The units of docs/how-to/deployment.md: systemd takes them, and they say what the commands take and need."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from receiver.cli import build_app
from receiver.web.server import LEAVE_WITHIN, STOP_TIMEOUT
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "how-to" / "deployment.md").read_text()
BLOCKS = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
NAMES = ("serve", "worker", "clock")


def units() -> dict[str, str]:
    """The whole text of each unit: the first one, and what the others say instead."""
    whole, *others = BLOCKS
    found = {"serve": whole}
    for name, other in zip(NAMES[1:], others, strict=True):
        text = whole
        for line in other.splitlines()[1:]:
            key = line.partition("=")[0]
            text, count = re.subn(rf"^{key}=.*$", line, text, flags=re.MULTILINE)
            assert count == 1, line
        found[name] = text
    return found


def value(unit: str, key: str) -> str:
    found = re.search(rf"^{key}=(.*)$", unit, re.MULTILINE)
    assert found, key
    return found[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_starts_a_command_that_takes_its_options(name: str) -> None:
    program, command, *arguments = shlex.split(value(units()[name], "ExecStart"))

    assert (program, command) == ("/opt/runhook/bin/runhook", name)
    get_command(build_app(name)).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


def test_a_stop_takes_no_longer_than_systemd_waits() -> None:
    worker = get_command(build_app("worker")).commands["worker"]  # type: ignore[attr-defined]
    stop_timeout = next(each.default for each in worker.params if each.name == "stop_timeout")

    assert float(value(units()["worker"], "TimeoutStopSec")) > stop_timeout
    assert float(value(units()["serve"], "TimeoutStopSec")) > STOP_TIMEOUT + LEAVE_WITHIN
    assert f"up to `--stop-timeout` ({stop_timeout:g} s)" in PAGE
    assert f"up to {STOP_TIMEOUT} s" in PAGE


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """Where systemd is: elsewhere nobody would run them."""
    if (analyze := shutil.which("systemd-analyze")) is None:
        return
    paths = []
    for name, text in units().items():
        paths.append(tmp_path / f"runhook-{name}.service")
        paths[-1].write_text(text.replace("/opt/runhook/bin/runhook", sys.executable))
    found = subprocess.run([analyze, "verify", "--man=no", *paths], capture_output=True, text=True, check=False)

    assert (found.returncode, [line for line in found.stderr.splitlines() if "runhook-" in line]) == (0, [])
