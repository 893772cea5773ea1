"""What the commands that only look import: whoever types `runhook runs` waits for nothing that it does not need."""

from __future__ import annotations

import os
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


def imported(data: Path, *arguments: str, program: str = PROGRAM) -> tuple[str, set[str]]:
    """What `runhook …` prints, and the modules that it has imported."""
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "RUNHOOK_DATA": str(data), "HOME": str(data)}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
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


SINKS_AND_PEOPLE = {
    "alembic",
    "apprise",
    "argon2",
    "boto3",
    "botocore",
    "cel",
    "croniter",
    "handlers.mirror.mirror",
    "psycopg",
    "rich",
    "slack_sdk",
}


def test_a_receiver_imports_no_sink_and_little_for_people() -> None:
    program = "import sys; from receiver.cli.serve import web_parts; web_parts(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())

    assert {"receiver.console.http", "receiver.submit.api"} <= modules
    assert SINKS_AND_PEOPLE.isdisjoint(modules), sorted(modules & SINKS_AND_PEOPLE)


def test_a_worker_imports_before_it_forks_what_its_sinks_will_need() -> None:
    call = "bodies(None, SimpleNamespace(destinations=[]))"
    program = f"import sys; from types import SimpleNamespace; from receiver.worker import bodies; {call}"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; print(*sys.modules)"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert {"handlers.mirror.mirror", "handlers.support.template_sandbox", "jinja2"} <= set(done.stdout.split())
