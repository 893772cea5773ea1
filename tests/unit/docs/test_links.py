"""Links of pages have targets, and each decision has its own number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# Pages that `make docs` writes; git ignores them.
GENERATED = {ROOT / line for line in (ROOT / ".gitignore").read_text().split() if line.startswith("docs/")}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_decision_has_its_own_number() -> None:
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert numbers == sorted(set(numbers))
    assert [page.read_text().partition(".")[0] for page in DECISIONS] == [f"# {number}" for number in numbers]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if there in GENERATED:
            continue
        assert there.exists(), target
        outside = page.is_relative_to(ROOT / "docs") and not there.is_relative_to(ROOT / "docs")
        assert not outside, f"{target} is not on the site: write its path as code"
        assert not anchor or anchor in anchors(there), target
