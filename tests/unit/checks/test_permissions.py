"""The commands that doctor tries are those that the scripts call."""

import re

from receiver.checks.servers import commands
from tests.support.paths import ROOT

CALL = re.compile(r"redis\.p?call\('([A-Z]+)'(?:, '([A-Z]+)')?")


def test_each_command_of_a_script_is_tried() -> None:
    called = {found.groups() for path in (ROOT / "receiver").rglob("*.py") for found in CALL.finditer(path.read_text())}
    names = set(commands())
    assert len(called) > 15
    assert {(name, more) for name, more in called if name not in names and f"{name} {more}" not in names} == set()
