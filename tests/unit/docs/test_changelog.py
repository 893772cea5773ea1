"""CHANGELOG.md: sections in one order, one line for each change, and nothing told twice."""

from __future__ import annotations

import re
from collections import Counter

from tests.support.paths import ROOT

RELEASES = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
# Those of Keep a Changelog, behind what has to be done at an upgrade.
SECTIONS = ["Before you upgrade", "Added", "Changed", "Deprecated", "Fixed", "Removed", "Security"]
LONGEST = 170  # characters: longer ones tell how it was built, and nobody reads them


def sections(release: str) -> list[tuple[str, list[str]]]:
    """Each section's heading and its lines that hold something."""
    parts = [each.splitlines() for each in re.split(r"^### ", release, flags=re.MULTILINE)[1:]]
    return [(heading, [line for line in lines if line]) for heading, *lines in parts]


def entries(lines: list[str]) -> list[str]:
    """The lines of a section from its first entry on: what stands before it is an introduction."""
    first = next((at for at, line in enumerate(lines) if line.startswith("- ")), len(lines))
    return lines[first:]


def test_releases_are_named_by_version_and_day_and_the_next_one_comes_first() -> None:
    names = [release.splitlines()[0] for release in RELEASES]
    assert names[0] == "[Unreleased]"
    assert [name for name in names[1:] if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", name)] == []


def test_a_release_has_its_sections_in_order_each_once_and_none_empty() -> None:
    for release in RELEASES:
        found = [heading for heading, _ in sections(release)]
        assert found == [each for each in SECTIONS if each in found]
        assert [heading for heading, lines in sections(release) if not entries(lines)] == []


def test_a_change_is_one_short_line() -> None:
    lines = [line for release in RELEASES for _, each in sections(release) for line in entries(each)]
    assert [line for line in lines if not re.fullmatch(r"- [A-Z`\[].*\.", line)] == []
    assert [f"{len(line)}: {line}" for line in lines if len(line) > LONGEST] == []


def test_nothing_is_told_twice() -> None:
    begun = Counter(line[:60] for release in RELEASES for _, each in sections(release) for line in entries(each))
    assert [each for each, count in begun.items() if count > 1] == []
