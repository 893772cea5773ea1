"""docs/reference/cli-json.md lists the members of each list's objects. `UPDATE=1 pytest` rewrites its tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import typer

from receiver.api.endpoint import Endpoint
from receiver.cli.commands import COMMANDS
from receiver.cli.listing import row_model
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "cli-json.md"
BEGIN, END = "<!-- The tables -->", "<!-- End of the tables -->"


def lists() -> Iterator[tuple[str, Endpoint[Any, Any]]]:
    """Each command that is made from an endpoint, by what a person types."""
    for name, listed in COMMANDS.items():
        found = getattr(import_module(listed.module), listed.attribute)
        if isinstance(found, typer.Typer):
            for command in found.registered_commands:
                if endpoint := getattr(command.callback, "lists", None):
                    yield f"{name} {command.name}", endpoint
        elif endpoint := getattr(found, "lists", None):
            yield name, endpoint


def kind_of(schema: dict[str, Any], known: dict[str, Any]) -> str:
    """A JSON type in words."""
    if "anyOf" in schema:
        return " or ".join(kind_of(each, known) for each in schema["anyOf"])
    if "$ref" in schema:
        members = known[schema["$ref"].rpartition("/")[2]]["properties"]
        return f"object of {', '.join(f'`{name}`' for name in members)}"
    if schema.get("format") == "date-time":
        return "time"
    if schema.get("type") == "array":
        return f"array of {kind_of(schema['items'], known)}s"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {kind_of(schema['additionalProperties'], known)}s"
    return str(schema.get("type", "any"))


def tables() -> str:
    """The part of the page that is compared."""
    commands: dict[Any, list[str]] = {}
    for name, endpoint in lists():
        commands.setdefault(row_model(endpoint), []).append(f"`runhook {name}`")
    parts = []
    for row, names in commands.items():
        schema = row.model_json_schema(mode="serialization")
        lines = [f"## {', '.join(names)}", "", "| member | type | |", "|---|---|---|"]
        for name, member in schema["properties"].items():
            text = " ".join(member.get("description", "").split())
            lines.append(f"| `{name}` | {kind_of(member, schema.get('$defs', {}))} | {text} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def test_the_page_says_what_each_list_holds() -> None:
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    written, end, after = rest.partition(END)
    assert (begin, end) == (BEGIN, END)
    assert "\n## " not in before + after
    if os.environ.get("UPDATE"):
        PAGE.write_text(f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}")
        return

    assert written.strip() == tables()


def test_every_list_of_the_ledger_is_there() -> None:
    assert {name for name, _ in lists()} >= {
        *("runs", "events", "deliveries", "dead", "attempts", "submissions", "operations", "audit"),
        *("sink list", "keys list"),
    }
