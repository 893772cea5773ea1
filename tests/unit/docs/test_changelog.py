"""CHANGELOG.md: the form of Keep a Changelog, short enough to be read."""

from __future__ import annotations

import re

from receiver import __version__
from tests.support.paths import ROOT

TEXT = (ROOT / "CHANGELOG.md").read_text()


def test_newest_release_is_the_version_of_the_package() -> None:
    versions = re.findall(r"^## \[(\d.*?)\]", TEXT, re.MULTILINE)

    assert versions[0] == __version__
    assert f"[{__version__}]: https://" in TEXT
