"""The generated parts of docs/reference are current; scripts/reference.py writes them."""

from __future__ import annotations

import pytest

from receiver.api.catalogue import ENDPOINTS
from receiver.cli.commands import COMMANDS
from scripts.reference import FOLDER, committed, generated, lists

PAGES = committed()


@pytest.mark.parametrize("name", PAGES)
def test_generated_part_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name], "run: python scripts/reference.py"


def test_commands_page_has_every_command_and_option() -> None:
    page = generated()["commands.md"]

    assert [name for name in COMMANDS if f"### runhook {name}" not in page] == []
    section = page.partition("### runhook replay\n")[2].partition("\n### ")[0]
    assert {"`--dry-run`", "`--backfill` SINK", "`--expect` N"} <= {
        cell.strip() for row in section.splitlines() for cell in row.split("|")[1:2]
    }


def test_calls_page_has_every_call_with_its_parameters() -> None:
    page = generated()["api-calls.md"]

    assert page.count("\n## ") >= len(ENDPOINTS)
    section = page.partition("## POST /keys\n")[2].partition("\n## ")[0]
    assert "| `name` | body, required |" in section


def test_every_list_of_the_ledger_has_a_table_of_its_rows() -> None:
    assert {name for name, _ in lists()} >= {
        *("runs", "events", "deliveries", "dead", "attempts", "submissions", "operations", "audit"),
        *("sink list", "keys list"),
    }
