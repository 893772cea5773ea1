"""The three lines of the Procfile, started as a platform starts them: by a shell, with PORT and the servers' URLs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.servers.receiver import ReceiverProcess, body
from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.waiting import eventually


@contextmanager
def started(name: str, command: str, it: ReceiverProcess) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **it.environment,
        "PORT": str(it.port),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    line = ["/bin/sh", "-c", f"exec {command}"]
    process = launch(line, it.directory / f"{name}.log", env=environment, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_procfile_runs_all_that_is_needed(tmp_path: Path, redis_url: str) -> None:
    # Given a Redis, and the processes that the Procfile names
    archive = {"type": "files", "path": str(tmp_path / "archive")}
    config = {"sinks": {"archive": archive}, "routes": [{"name": "all", "to": ["archive"]}]}
    it = ReceiverProcess(tmp_path / "app", redis_url, config)
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert set(lines) == {"web", "worker", "clock"}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(started(name, command, it)) for name, command in lines.items()}
        logs = lambda: "".join((it.directory / f"{name}.log").read_text() for name in lines)  # noqa: E731
        eventually(lambda: f":{it.port}" in logs())
        # When a webhook comes
        it.acked(body(1))
        # Then it is where the rules want it
        eventually(lambda: list((tmp_path / "archive").rglob("run.json")))
        # And each stops as it is asked to
        for process in processes.values():
            process.send_signal(signal.SIGTERM)
        assert {name: process.wait(60) for name, process in processes.items()} == dict.fromkeys(lines, 0)
    assert "Traceback" not in logs()
