"""docs/reference/cli.md gives a reason for each command that works on this machine's ledger only."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text()
LOCAL_ONLY = PAGE.partition("These commands work on this machine only")[2].partition("\n## ")[0]
# Commands of the modules whose name is not that of their only local command.
NAMES = {"sinks": {"sink columns"}, "inbox": {"inbox", "spool"}}


def test_page_gives_a_reason_for_each_local_command() -> None:
    modules = {path.stem for path in (ROOT / "receiver" / "cli").glob("*.py") if "\n@here_only\n" in path.read_text()}
    reasons = dict(re.findall(r"^\| `([\w ]+)` \| (\w.+) \|$", LOCAL_ONLY, flags=re.MULTILINE))

    assert set(reasons) == set().union(*(NAMES.get(each, {each}) for each in modules))
