"""The help of commands: panels, words, examples; what it costs."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from receiver.cli import build_app
from receiver.cli.commands import ACT, COMMANDS, LOOK, RUN, SET_UP
from receiver.cli.examples import EXAMPLES
from tests.support.paths import ROOT


def leaves(name: str) -> dict[str, typer.core.TyperCommand]:
    """The command `name`, or those of the group, by what a person types."""
    group = typer.main.get_command(build_app(name))
    assert isinstance(group, TyperGroup)
    command = group.commands[name]
    below = getattr(command, "commands", None)
    return {name: command} if below is None else {f"{name} {each}": found for each, found in below.items()}  # type: ignore[dict-item]


def test_the_help_imports_no_command() -> None:
    program = (
        "import sys; sys.argv[1:] = ['-h']; from receiver.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    )
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60)

    *shown, modules = done.stdout.splitlines()
    assert [panel for line in shown for panel in re.findall(r"╭─ (\w+(?: up)?) ─", line)] == [
        "Options",
        RUN,
        LOOK,
        ACT,
        SET_UP,
    ]
    assert {each.module for each in COMMANDS.values()}.isdisjoint(modules.split())
    assert {"typer", "rich", "pydantic", "sqlalchemy", "redis", "httpx2"}.isdisjoint(modules.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_the_same_of_itself_in_both_helps(name: str) -> None:
    found = getattr(import_module(COMMANDS[name].module), COMMANDS[name].attribute)

    if not isinstance(found, typer.Typer):
        assert " ".join(inspect.getdoc(found).split("\n\n")[0].split()) == COMMANDS[name].help  # type: ignore[union-attr]
    assert COMMANDS[name].panel in (RUN, LOOK, ACT, SET_UP)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_has_two_examples_that_are_right_and_no_types(name: str) -> None:
    for path, command in leaves(name).items():
        shown = CliRunner().invoke(build_app(name), [*path.split(), "-h"], env={"COLUMNS": "200"}).stdout

        examples = [" ".join(filter(None, ["runhook", path, each])) for each in EXAMPLES[path]]
        assert len(set(examples)) == 2, path
        assert all(f" {example} " in shown for example in examples), shown
        for example in EXAMPLES[path]:
            arguments = shlex.split(re.split(r"(?:^| )[|>] ", example)[0])
            command.make_context(path, arguments, resilient_parsing=False)
        assert not re.search(r"TEXT|INTEGER|FLOAT|<\w+|\[x|x>=|list\[", shown), shown


def test_there_are_no_examples_of_what_is_not_there() -> None:
    assert {path.split()[0] for path in EXAMPLES} == COMMANDS.keys()
    assert EXAMPLES.keys() == {path for name in COMMANDS for path in leaves(name)}
