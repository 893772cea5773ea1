"""deploy/healthcheck: a receiver must answer; a worker or a clock must run."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.valkey import free_port
from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.waiting import eventually

# Answers /healthz with the status that it is given, as the program `python - COMMAND [--port PORT]`.
PROGRAM = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({status} if self.path == "/healthz" else 404)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


@contextmanager
def container(folder: Path, *arguments: str, port: int = 0, status: int = 200) -> Iterator[int]:
    """A process with the command line of a container; its id. `port`: where it answers, 0 for any."""
    program = PROGRAM.format(status=status, port=port)
    process = launch([sys.executable, "-c", program, "runhook", *arguments], folder / "log")
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def check(pid: int) -> tuple[int, str]:
    command = [ROOT / "deploy" / "healthcheck", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize("form", ["--port {port}", "--port={port}"])
def test_receiver_is_healthy_while_it_answers(tmp_path: Path, form: str) -> None:
    port = free_port()
    options = form.format(port=port).split()
    with container(tmp_path, "serve", "--host", "0.0.0.0", *options, port=port) as pid:
        eventually(lambda: check(pid) == (0, ""))
    with container(tmp_path, "serve", *options) as pid:
        code, reason = check(pid)
        assert code == 1
        assert "does not answer" in reason


def test_receiver_that_answers_an_error_is_unhealthy(tmp_path: Path) -> None:
    port = free_port()
    with container(tmp_path, "serve", "--port", str(port), port=port, status=500) as pid:
        eventually(lambda: check(pid) == (1, "the receiver answers 500\n"))


@pytest.mark.parametrize("command", ["worker", "clock", "worker --only dev"])
def test_worker_and_clock_are_healthy_while_they_run(tmp_path: Path, command: str) -> None:
    with container(tmp_path, *command.split()) as pid:
        assert check(pid) == (0, "")
