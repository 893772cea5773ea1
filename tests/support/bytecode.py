"""Bytecode of all modules that tests import, made once before several processes begin to import them.

In a fresh clone each of them would compile a thousand modules at the same time as the others: 6 s of a core.
"""

from __future__ import annotations

import compileall
import sys

import pytest
from _pytest.assertion import rewrite

from tests.support.paths import ROOT


def make(config: pytest.Config) -> None:
    """Compile what has no bytecode yet: our modules, and those of tests as pytest rewrites their assertions."""
    if sys.dont_write_bytecode:
        return
    for package in ("receiver", "handlers", "simulator", "tests/servers", "tests/support"):
        compileall.compile_dir(ROOT / package, quiet=2)
    state = config.stash[rewrite.assertstate_key]
    for path in (ROOT / "tests").rglob("test_*.py"):
        kept = rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"
        if rewrite._read_pyc(path, kept) is None and rewrite.try_makedirs(kept.parent):
            status, code = rewrite._rewrite_test(path, config)
            rewrite._write_pyc(state, code, status, kept)
