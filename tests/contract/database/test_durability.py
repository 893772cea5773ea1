"""A receipt means that the row is on disk, seen in the system calls. Kill -9 can't show it: the page cache survives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Prints a line after each receipt.
_PROGRAM = """
import os, sys
from handlers.database import DatabaseOptions, DatabaseSink
from handlers.testing.samples import make_delivery, sample_run
from handlers.contract import Receipt

class NoServices: pass

sink = DatabaseSink("results", DatabaseOptions.model_validate({"url": sys.argv[1]}), NoServices())
for number in range(4):
    answers = sink.send_many([make_delivery(sample_run(f"tsk_{number}"))])
    assert isinstance(answers[0], Receipt), answers
    os.write(1, f"receipt {number}\\n".encode())
"""


def test_each_receipt_comes_after_a_sync_of_the_sqlite_file_that_has_the_row(tmp_path: Path) -> None:
    strace, trace = shutil.which("strace"), tmp_path / "trace"
    if strace is None:
        if os.environ.get("CI"):
            pytest.fail("strace is not installed")
        pytest.skip("strace is not installed")
    done = subprocess.run(
        [
            *(strace, "-f", "-qq", "-y", "-s", "64", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(trace)),
            *(sys.executable, "-c", _PROGRAM, f"sqlite:///{tmp_path}/results.db"),
        ],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    calls = trace.read_text(errors="replace").splitlines()
    receipts = [place for place, call in enumerate(calls) if re.search(r'write\(1<.*"receipt \d', call)]
    assert len(receipts) == 4, "the trace does not show the receipts; it proves nothing"
    for start, end in zip([0, *receipts], receipts, strict=False):
        written = [place for place in range(start, end) if re.search(r"pwrite64\(\d+<.*results\.db-wal>", calls[place])]
        synced = [
            place for place in range(start, end) if re.search(r"f(?:data)?sync\(\d+<.*results\.db-wal>", calls[place])
        ]
        assert written, "the trace does not show the row; it proves nothing"
        assert synced, "a receipt was given for a row that is in the page cache only"
        assert synced[-1] > written[-1]
