"""CI skips no test: what a machine lacks fails there, and is skipped elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

SUITE = """
import pytest

def test_skips():
    pytest.skip("node is missing")

@pytest.mark.skipif(True, reason="npm is missing")
def test_is_skipped():
    pass

@pytest.mark.xfail
def test_is_expected_to_fail():
    assert False
"""


def test_skip_fails_in_ci(tmp_path: Path) -> None:
    (tmp_path / "test_machine.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", f"--rootdir={tmp_path}", str(tmp_path)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}

    ended = subprocess.run(
        command, cwd=ROOT, env={**inherited, "CI": "true"}, capture_output=True, text=True, timeout=120, check=False
    )

    assert "1 failed, 1 xfailed, 1 error" in ended.stdout
    for missing in ("node", "npm"):
        assert f"CI skips no test: Skipped: {missing} is missing" in ended.stdout
