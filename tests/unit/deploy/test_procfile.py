"""Procfile: each line is a command of Runhook, as a shell reads it."""

import subprocess

from tests.support.deploy_files import parse
from tests.support.paths import ROOT


def words_of(command: str, **variables: str) -> list[str]:
    """Return the words of a command line, with its variables expanded."""
    line = f"set -- {command}; printf '%s\\n' \"$@\""
    return subprocess.run(["/bin/sh", "-c", line], env=variables, capture_output=True, text=True).stdout.splitlines()


def test_each_line_of_the_procfile_starts_a_process() -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())

    assert {name: words_of(line)[:2] for name, line in lines.items()} == {
        "web": ["runhook", "serve"],
        "worker": ["runhook", "worker"],
        "clock": ["runhook", "clock"],
    }
    for line in lines.values():
        parse(words_of(line)[1:])
    assert words_of(lines["web"], PORT="9000")[-2:] == ["--port", "9000"]
