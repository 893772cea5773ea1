"""docs/reference/cli.md gives a reason for each command that works on this machine's ledger only."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text()
# Modules whose name is not that of the command.
NAMES = {"sinks": "sink columns"}


def test_each_command_that_asks_no_service_says_why() -> None:
    modules = {path.stem for path in (ROOT / "receiver" / "cli").glob("*.py") if "\n@here_only\n" in path.read_text()}
    told = dict(re.findall(r"^\| `([\w ]+)` \| (\w.+) \|$", PAGE, flags=re.MULTILINE))
    assert set(told) == {NAMES.get(each, each) for each in modules}
