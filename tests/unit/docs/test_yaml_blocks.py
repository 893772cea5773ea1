"""Each config that README.md, a tutorial or a how-to page shows passes `runhook check` as printed."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from tests.support.command import call_command
from tests.support.paths import ROOT

FOLDERS = ("tutorials", "how-to")
# Its sink type comes from a package: tests/acceptance/test_third_party_sink.py follows the page.
THIRD_PARTY = ROOT / "docs" / "how-to" / "writing-a-sink.md"
PAGES = [ROOT / "README.md", *sorted(page for name in FOLDERS for page in (ROOT / "docs" / name).glob("*.md"))]
CONFIGS = [
    pytest.param(page, textwrap.dedent(block), id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    if page != THIRD_PARTY
    for number, block in enumerate(re.findall(r"^ *```yaml\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE))
    if re.search(r"^ *sources:", block, re.MULTILINE)
]


@pytest.mark.parametrize(("page", "config"), CONFIGS)
def test_config_on_a_page_passes_check(page: Path, config: str, tmp_path: Path) -> None:
    (tmp_path / "runhook.yaml").write_text(config)

    checked = call_command("check", "runhook.yaml", "--allow-unset", environ={}, directory=tmp_path)

    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(("page", "config"), CONFIGS)
def test_page_names_each_variable_of_its_config(page: Path, config: str) -> None:
    """Outside of the config: in the text, or as a line of .env or of the shell. A new user has set none of them."""
    text = re.sub(r"^ *```yaml\n.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    variables = set(re.findall(r"\$\{(\w+)\}", config)) - {"SKYVERN_API_KEY"}

    assert {name for name in variables if name not in text} == set()


def test_readme_config_needs_no_variable_but_the_key(tmp_path: Path) -> None:
    ((_, config),) = [each.values for each in CONFIGS if each.values[0] == ROOT / "README.md"]
    (tmp_path / "runhook.yaml").write_text(config)

    checked = call_command("check", environ={"SKYVERN_API_KEY": "k" * 20}, directory=tmp_path)

    assert (checked.returncode, checked.stderr) == (0, "")
