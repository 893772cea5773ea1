"""What the commands that only look import: whoever types `runhook runs` waits for nothing that it does not need."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.ledger import Ledger
from tests.support.ledger import new_event, record, with_tables
from tests.support.paths import ROOT

SERVERS = {
    "alembic",
    "boto3",
    "botocore",
    "httpx2",
    "jinja2",
    "redis",
    "rq",
    "slack_sdk",
    "starlette",
    "uvicorn",
    "uvloop",
}
CONFIG = {"yaml", "receiver.config.models", "receiver.config.loader", "handlers.registry"}

PROGRAM = """
import sys
from receiver.cli import main
try:
    main()
finally:
    print(*sys.modules)
"""


def imported(data: Path, *arguments: str, code: int = 0) -> tuple[str, set[str]]:
    """What `runhook …`, which ends with `code`, prints, and the modules that it has imported."""
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "RUNHOOK_DATA": str(data), "HOME": str(data)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    shown, _, modules = done.stdout.rstrip("\n").rpartition("\n")
    return shown, set(modules.split())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    ledger = with_tables(Ledger(f"sqlite:///{folder / 'ledger.db'}"))
    record(ledger, new_event("tsk_1"))
    ledger.close()
    return folder


@pytest.mark.parametrize("command", ["runs", "deliveries", "audit", "stats"])
def test_a_list_imports_no_server_no_sink_and_no_config(data: Path, command: str) -> None:
    shown, modules = imported(data, command, "--json")

    assert shown.startswith(("[", "{"))
    assert (SERVERS | CONFIG | {"rich"}).isdisjoint(modules), sorted(modules & (SERVERS | CONFIG | {"rich"}))


def test_a_receiver_starts_without_what_only_sinks_and_people_need(data: Path) -> None:
    config = {"sources": {"skyvern": {"secrets": ["s" * 20]}}, "routes": []}
    (data / "runhook.yaml").write_text(json.dumps(config))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        # It ends when it would listen: all is imported then
        port = str(taken.getsockname()[1])
        _, modules = imported(data, "serve", "--port", port, "--config", str(data / "runhook.yaml"), code=3)

    assert {"receiver.console.http", "receiver.submit.api", "uvicorn"} <= modules
    unneeded = {"alembic", "apprise", "argon2", "boto3", "cel", "croniter", "psycopg", "rich", "slack_sdk"}
    assert unneeded.isdisjoint(modules), sorted(modules & unneeded)
