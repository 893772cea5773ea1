"""The pages on performance quote no figure that a command does not give, and other pages quote none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = [ROOT / "docs" / "explanation" / "performance.md"]
SECTIONS = {
    f"{page.stem}: {section.partition(chr(10))[0]}": section
    for page in PAGES
    for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]
}
COMMAND = re.compile(r"`(?:python|make|pip|du|runhook) [^`]+`")
# What only a measurement can tell.
MEASURED = re.compile(r"\d µs|\d (?:acks|events|deliveries) (?:a|per) second|\d (?:times|×) (?:RQ|Celery|dramatiq|as)")
OTHERS = [
    ROOT / "README.md",
    *sorted(each for each in (ROOT / "docs").rglob("*.md") if each not in PAGES and "decisions" not in each.parts),
]


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS.keys())
def test_each_section_says_which_command_gives_its_figures(section: str) -> None:
    assert COMMAND.search(section)
    for script in re.findall(r"bench[/.](\w+)", section):
        assert (ROOT / "bench" / f"{script}.py").exists() or (ROOT / "bench" / script).exists(), script


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.name)
def test_other_pages_quote_no_measured_figure(page: Path) -> None:
    assert not MEASURED.findall(page.read_text())
