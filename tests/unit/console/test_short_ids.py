"""Ids in tables are as long in the console as on the command line."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

# What cuts an id in a template by itself, and not by `short_id`.
CUT = re.compile(r"\b(?:id|\w+_id|detail)\s*(?:\[\s*:|\|\s*truncate)")


def test_no_template_cuts_an_id_by_a_rule_of_its_own() -> None:
    templates = sorted((ROOT / "receiver" / "console" / "templates").glob("*.html"))
    assert "short_id" in "".join(path.read_text() for path in templates)

    assert [path.name for path in templates if CUT.search(path.read_text())] == []
