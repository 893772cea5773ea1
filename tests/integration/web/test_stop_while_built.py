"""A receiver that is stopped while its APIs and the console are built."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx2

from tests.servers.valkey import free_port
from tests.support.paths import ROOT
from tests.support.waiting import PATIENCE, eventually

# Serves, and says at its end how many objects Python need not look through then.
PROGRAM = """
import atexit, gc, sys, threading
from pathlib import Path
from receiver.cli import serve

serve.late_parts = lambda: threading.Event().wait()
atexit.register(lambda: print(gc.get_freeze_count()))
serve.serve(port=int(sys.argv[1]), config=Path(sys.argv[2]), data=Path(sys.argv[3]))
"""


def test_it_ends_at_once(tmp_path: Path) -> None:
    config, port = tmp_path / "runhook.yaml", free_port()
    config.write_text("sources: {skyvern: {secrets: [a-signing-secret]}}")
    line = [sys.executable, "-c", PROGRAM, str(port), str(config), str(tmp_path / "data")]
    environ = {**os.environ, "REDIS_URL": "redis://127.0.0.1:1/0"}
    with subprocess.Popen(line, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:

        def answers() -> bool:
            with suppress(httpx2.HTTPError):
                return httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200
            return False

        try:
            eventually(lambda: process.poll() is not None or answers())
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()

    assert process.returncode == 0
    assert int(output) > 10_000
