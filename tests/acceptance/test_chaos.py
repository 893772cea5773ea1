"""The short form of `make chaos`: two hosts and some two minutes of load while everything is killed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from receiver.runtime.child import die_with_parent
from tests.support.paths import ROOT

pytestmark = pytest.mark.long

SEED = "20261124"


def test_nothing_acked_is_lost_whatever_is_killed() -> None:
    parent = os.getpid()
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", "--seed", SEED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        preexec_fn=lambda: die_with_parent(parent),
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if line.startswith("FAILED"))
