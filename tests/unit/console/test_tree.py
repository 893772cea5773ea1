"""A value as a tree, on a page and on the shell."""

import re

import pytest

from receiver.api.outline import outline
from receiver.cli.output import out
from receiver.cli.run import tree
from receiver.console.rendering import Renderer

BODY = {"run_id": "tsk_1", "error": None, "output": {"n": 1, "<b>": None}, "url": None, "files": {"a": None}}


def test_a_page_names_what_is_null_in_one_line_of_its_object() -> None:
    html = Renderer([]).macro("parts.html", "tree", outline(BODY), 3)

    lines = [re.sub(r"<[^>]*>", "", line).strip() for line in html.replace("<li>", "\n").splitlines()]
    assert [line for line in lines if line] == [
        *("5 members", "run_id: tsk_1", "output: 2 members", "n: 1", "&lt;b&gt;: null"),
        *("files: 1 member", "a: null", "error, url: null"),
    ]


def test_a_command_does_so_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    out().print(tree("run", outline(BODY)))

    assert [line.lstrip("│├└─ ") for line in capsys.readouterr().out.splitlines()] == [
        *("run: 5 members", "run_id: tsk_1", "output: 2 members", "n: 1", "<b>: null"),
        *("files: 1 member", "a: null", "error, url: null"),
    ]
