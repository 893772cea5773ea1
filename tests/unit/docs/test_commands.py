"""Each `runhook …` that a page shows is a command that there is, with options that it has."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver.cli.commands import COMMANDS, load
from tests.support.paths import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONS = ("--version", "--help", "-h", "--install-completion", "--show-completion")
VARIABLES = r"(?:[A-Z_]+=\S* +)*"


def shown(page: Path) -> Iterator[str]:
    """Each command of a page: in code between words, or on a line of a block, which is fenced or indented."""
    fence = re.compile(r"^```.*?^```|^    .*?$", re.DOTALL | re.MULTILINE)
    text = page.read_text()
    for block in fence.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(rf"\s*(?:\$ |(?:web|worker|clock): )?{VARIABLES}(?:\S*/)?runhook (.*)", line):
                yield found[1]
    for code in re.findall(r"`([^`]+)`", fence.sub("", text)):
        if found := re.match(rf"{VARIABLES}runhook ([a-z-].*)", " ".join(code.split())):
            yield found[1]


@functools.cache
def command_of(name: str) -> Any:
    return load(name)


def problem(text: str) -> str | None:
    """What is wrong with a command's words, of which values may be made up."""
    words = shlex.split(re.split(r" [|#;>]|&&", text)[0].replace("[", " ").replace("]", " "))
    if not words or words[0].startswith("-"):
        return None if not words or words[0] in OPTIONS else f"no option {words[0]}"
    name, *words = words
    if name not in COMMANDS:
        return f"no command {name}"
    command = command_of(name)
    if subcommands := getattr(command, "commands", None):
        if not words:
            return None
        if words[0] not in subcommands:
            return f"{name} has no {words[0]}"
        command = subcommands[words.pop(0)]
    options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}
    used = {word.partition("=")[0] for word in words if re.match(r"-[a-z]$|--[a-z]", word)}
    return f"{command.name} has no {', '.join(sorted(used - options))}" if used - options else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_on_a_page_is_one_that_there_is(page: Path) -> None:
    wrong = {f"runhook {text}": found for text in shown(page) if (found := problem(text))}

    assert wrong == {}


def test_the_pages_name_each_command() -> None:
    named = {text.split()[0] for page in PAGES for text in shown(page)}

    assert set(COMMANDS) - named == set()
