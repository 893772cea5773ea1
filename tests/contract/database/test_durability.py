"""A receipt means that the row is on disk. SQLite: seen in the system calls, for the page cache survives a kill -9.
PostgreSQL: whatever its own settings say, or nothing is written."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.contract import Receipt, Unavailable
from tests.servers.postgres import PostgresProcess
from tests.support.paths import ROOT
from tests.support.results_db import ResultsDb, event

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


def test_sqlite_receipt_comes_after_the_row_is_synced(tmp_path: Path) -> None:
    strace, trace = shutil.which("strace"), tmp_path / "trace"
    if strace is None:
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


def test_row_survives_a_kill_of_an_asynchronous_server(postgres_factory: Callable[..., PostgresProcess]) -> None:
    # Given a PostgreSQL with a common tuning, which writes its log out every 10 s at the most
    server = postgres_factory(synchronous_commit="off", wal_writer_delay="10s", wal_writer_flush_after="1GB")
    database = ResultsDb(server.url())
    sink = database.sink()
    # When it is killed once rows are confirmed
    for number in range(30):
        assert isinstance(sink.send(event(f"tsk_{number}", 1)), Receipt)
    server.restart()
    # Then all are there
    assert len(database.rows()) == 30
    database.close()


def test_weak_durability_must_be_accepted_by_the_operator(
    postgres: PostgresProcess, pg: ResultsDb, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres.altered(fsync="off"):
        with pytest.raises(Unavailable, match=r"fsync is off.*set it to on.*accept_weaker_durability: true"):
            pg.sink().send(event("tsk_1", 1))
        assert not caplog.messages

        accepting = pg.sink(accept_weaker_durability=True)
        for number in range(2):
            assert isinstance(accepting.send(event(f"tsk_{number}", 1)), Receipt)

        assert [line.partition(" accepted")[0] for line in caplog.messages] == ["database.weaker sink=results"]
