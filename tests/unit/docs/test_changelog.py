"""CHANGELOG.md: the form of Keep a Changelog, short enough to be read."""

from __future__ import annotations

import re
from collections import Counter

from receiver import __version__
from tests.support.paths import ROOT

TEXT = (ROOT / "CHANGELOG.md").read_text()
RELEASES = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
SECTIONS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
MAXIMUM_LINES = 60
MAXIMUM_LENGTH = 160  # characters of an entry


def sections(release: str) -> dict[str, list[str]]:
    """The entries of a release by section."""
    parts = re.split(r"^### ", release, flags=re.MULTILINE)[1:]
    return {part.splitlines()[0]: re.findall(r"^- .*", part, re.MULTILINE) for part in parts}


ENTRIES = [entry for release in RELEASES for entries in sections(release).values() for entry in entries]


def test_changelog_is_short() -> None:
    assert len(TEXT.splitlines()) <= MAXIMUM_LINES
    assert [entry for entry in ENTRIES if len(entry) > MAXIMUM_LENGTH] == []


def test_releases_are_named_by_version_and_date() -> None:
    names = [release.splitlines()[0] for release in RELEASES]
    dated = [name for name in names if name != "[Unreleased]"]

    assert names == [name for name in names[:1] if name == "[Unreleased]"] + dated
    assert [name for name in dated if not re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", name)] == []


def test_newest_release_is_the_version_of_the_package() -> None:
    versions = re.findall(r"^## \[(\d.*?)\]", TEXT, re.MULTILINE)

    assert versions[0] == __version__
    assert f"[{__version__}]: https://" in TEXT


def test_sections_are_in_order_and_not_empty() -> None:
    for release in RELEASES:
        names = list(sections(release))
        assert names == [name for name in SECTIONS if name in names]
        assert all(sections(release).values())


def test_each_change_is_one_line_and_ends_with_a_period() -> None:
    assert [entry for entry in ENTRIES if not re.fullmatch(r"- [A-Z`].*\.", entry)] == []


def test_each_change_is_listed_once() -> None:
    beginnings = Counter(entry[:60] for entry in ENTRIES)

    assert [beginning for beginning, count in beginnings.items() if count > 1] == []
