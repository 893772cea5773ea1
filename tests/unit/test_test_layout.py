"""What the tests share stands in rooms of its own: no test module is imported by another."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

SHARED = ("support", "servers", "chaos", "loop", "upstream")
IMPORT = re.compile(r"\b(?:from|import) +tests\.(\w+)")  # also within the code that a test hands to an interpreter


def test_tests_import_from_what_is_shared_only() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    found = {(str(path.relative_to(ROOT)), room) for path in files for room in IMPORT.findall(path.read_text())}
    assert len(found) > 100
    assert {(path, room) for path, room in found if room not in SHARED} == set()


def test_what_is_shared_is_not_collected() -> None:
    assert [path for room in SHARED for path in (ROOT / "tests" / room).rglob("test_*.py")] == []
