"""Read the Dockerfile as its build does, and command lines of Runhook without running them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from receiver.cli.commands import load
from tests.support.paths import ROOT


class Instruction(NamedTuple):
    """One instruction: its name, such as RUN, and the text behind it on one line."""

    name: str
    text: str


def stages() -> list[list[Instruction]]:
    """The instructions of each stage, FROM first. ARG before the first FROM is left out."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    found: list[list[Instruction]] = []
    for name, _, rest in (line.partition(" ") for line in lines):
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append(Instruction(name, rest.strip()))
    return found


def variables(stage: list[Instruction]) -> dict[str, str]:
    """The variables that ENV sets."""
    pairs = [each for name, text in stage if name == "ENV" for each in shlex.split(text)]
    return dict(pair.split("=", 1) for pair in pairs)


def context() -> list[Path]:
    """The files that the build can copy, relative to the project. Reads `*`, `!path` and `**/name` of .dockerignore."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "nothing is in the build but what .dockerignore names"
    allowed = [ROOT / line.removeprefix("!") for line in lines if line.startswith("!")]
    ignored = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    files = [file for path in allowed for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    relative = [file.relative_to(ROOT) for file in files]
    return [path for path in relative if not any(fnmatch(part, name) for part in path.parts for name in ignored)]


def parse(arguments: Sequence[str]) -> None:
    """Parse `runhook ARGUMENTS`. Fails with click's error if the command or an option is unknown."""
    name, *options = arguments
    command = load(name)
    command.make_context(name, options)


def default(name: str, option: str) -> float:
    """Return the default of a numeric option."""
    command = load(name)
    return float(next(each.default for each in command.params if each.name == option))
