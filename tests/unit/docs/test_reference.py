"""The generated parts of docs/reference are current; scripts/reference.py writes them."""

from __future__ import annotations

import re

import pytest

from receiver.api.catalogue import ENDPOINTS
from receiver.cli.commands import COMMANDS
from scripts.reference import FOLDER, committed, generated

PAGES = committed()


@pytest.mark.parametrize("name", PAGES)
def test_generated_part_of_a_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name], "run: python scripts/reference.py"


def test_commands_page_has_every_command_and_option() -> None:
    page = generated()["commands.md"]

    assert [name for name in COMMANDS if f"### runhook {name}" not in page] == []
    section = page.partition("### runhook replay\n")[2].partition("\n### ")[0]
    assert {"--dry-run", "--backfill", "--expect", "filters"} <= set(re.findall(r"--[\w-]+|filters", section))


def test_calls_page_has_every_call_with_its_parameters() -> None:
    page = generated()["api-calls.md"]

    assert page.count("\n## ") >= len(ENDPOINTS)
    assert "- `name` (required): " in page.partition("## POST /keys\n")[2].partition("\n## ")[0]
    runs = page.partition("## GET /runs\n")[2].partition("\n## ")[0]
    assert "Scope: view." in runs
    assert "- Shared: filters, `event_id route sink state limit after" in runs
    assert "- Items: `source run_id " in runs
