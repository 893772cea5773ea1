"""`runhook dev` as a process.

start_dev   `start_dev(kind=Dev, directory=None, **options)`: one that ends with the test
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver.domain.signature import sign
from tests.servers.valkey import free_port
from tests.servers.warm_python import Process, start
from tests.support.paths import ROOT
from tests.support.processes import descendants, launch, name_of, state_and_parent
from tests.support.waiting import eventually

CONFIG = """
sources:
  skyvern: {secrets: ["${SKYVERN_API_KEY}"]}
sinks:
  archive: {type: files, path: "${RUNHOOK_DATA}/archive"}
routes:
  - {name: everything, to: [archive]}
"""


class Dev:
    """One `runhook dev`. `logs`: the folder of its log, `directory` when absent. `config`: None writes no file.

    `python`: that of an environment, which is started; without it and a terminal, one that is warm is forked.
    """

    def __init__(
        self,
        directory: Path,
        *,
        config: str | None = CONFIG,
        terminal: int | None = None,
        logs: Path | None = None,
        python: str = "",
        **environ: str,
    ) -> None:
        self.port = free_port()
        self.data = directory / "d"
        self.log_path = (logs or directory) / f"log-{self.port}"
        if config is not None:
            (directory / "runhook.yaml").write_text(config)
        self.log_path.touch()
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        line = ["-m", "receiver.cli", "dev", "--port", str(self.port), *self.options(directory)]
        variables = {**inherited, "PYTHONPATH": str(ROOT), **environ}
        self.process: Process
        if python or terminal is not None:
            log = self.log_path if terminal is None else terminal
            self.process = launch([python or sys.executable, *line], log, env=variables, cwd=directory)
        else:
            self.process = start(line, self.log_path, env=variables, cwd=directory)

    def options(self, directory: Path) -> list[str]:
        return ["--data", str(self.data), "--config", str(directory / "runhook.yaml")]

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def ready(self) -> Dev:
        eventually(
            lambda: "Ctrl-C stops everything" in self.log or self.process.poll() is not None, what=lambda: self.log
        )
        assert self.process.poll() is None, self.log
        return self

    def part(self, name: str) -> int:
        """The process, a child of ours, that is called `name`."""
        mine = [pid for pid in descendants(self.process.pid) if name == name_of(pid)]
        direct = [pid for pid in mine if (state_and_parent(pid) or ("", 0))[1] == self.process.pid]
        assert len(direct) == 1, (name, direct, self.log)
        return direct[0]

    def post(self, body: bytes, key: str = "") -> str:
        """Post a webhook, signed with `key` or the one that was made here; the event id."""
        key = key or (self.data / "skyvern-api-key").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/webhooks/skyvern",
            body,
            {"x-skyvern-signature": sign(body, key), "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status == 202
            return str(json.load(response)["event_id"])

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def a_run(number: int) -> bytes:
    return json.dumps(
        {"run_id": f"tsk_{number}", "run_type": "task_v2", "status": "completed", "output": {"n": number}}
    ).encode()


@pytest.fixture
def start_dev(tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    started: list[Dev] = []

    def start(kind: type[Dev] = Dev, directory: Path | None = None, **options: Any) -> Dev:
        started.append(kind(directory or tmp_path, **options))
        return started[-1]

    yield start
    for dev in started:
        dev.end()
