"""docs/reference/sinks/*.md name every option, and their examples are valid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.registry import sink_type
from tests.support.paths import ROOT

PAGES = sorted((ROOT / "docs" / "reference" / "sinks").glob("*.md"))
COMMON = {
    "type",
    "retry",
    "concurrency",
    "rate",
}  # keys of every sink, in docs/reference/configuration.md


def examples(page: Path) -> list[tuple[str, dict[str, Any]]]:
    """(name, keys) of each sink in the page's YAML, with a value in the place of every variable."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    found: list[tuple[str, dict[str, Any]]] = []
    for block in blocks:
        if not re.search(r"^sinks:", block, re.MULTILINE):
            continue
        text = re.sub(r"\$\{(\w+?_URL)(:-[^}]*)?\}", "https://host.example/value", block)
        text = re.sub(r"\$\{RUNHOOK_\w+_KEY\}", "rhk_value", text)
        text = re.sub(r"\$\{\w+(:-[^}]*)?\}", "v4lue" * 8, text)
        found += yaml.safe_load(text)["sinks"].items()
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_every_option_of_its_sink(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [name for name in sink_type(page.stem).Options.model_fields if f"`{name}`" not in text]
    assert missing == []


@pytest.mark.parametrize(
    ("name", "keys"),
    [pytest.param(name, keys, id=f"{page.stem}-{name}") for page in PAGES for name, keys in examples(page)],
)
def test_examples_on_the_page_of_a_sink_are_valid(name: str, keys: dict[str, Any]) -> None:
    options = {key: value for key, value in keys.items() if key not in COMMON}
    sink_type(keys["type"]).Options.model_validate(options)
