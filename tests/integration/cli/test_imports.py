"""What the commands that only look import: whoever types `runhook runs` waits for nothing that it does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from receiver.domain.signature import sign
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


# What a receiver needs for its pages, APIs and ledger, and not for a webhook.
LATE = {
    "ctypes",
    "handlers.support.address_policy",
    "httpcore2",
    "httpx2",
    "jinja2",
    "jwt",
    "prometheus_client",
    "receiver.api.http",
    "receiver.console.http",
    "receiver.domain.redaction",
    "receiver.ledger",
    "receiver.routing.cel_scan",
    "receiver.submit.api",
    "rq",
    "sqlalchemy",
}
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

# A receiver that takes one webhook and ends, and whose other parts nobody asks for.
RECEIVER = """
import asyncio, sys, uvicorn
from receiver.web import late_parts
late_parts.LateParts.__init__.__kwdefaults__["after"] = 3600

class Server(uvicorn.Server):
    def run(self, sockets):
        asyncio.run(self._take_one(self.config.app))
        self.started = True

    async def _take_one(self, app):
        sent = []
        async def receive():
            return {"type": "http.request", "body": BODY, "more_body": False}
        async def send(message):
            sent.append(message)
        scope = {"type": "http", "method": "POST", "path": "/webhooks/skyvern", "query_string": b"", "extensions": {}}
        scope["headers"] = [(b"x-skyvern-signature", SIGNATURE), (b"content-length", b"%d" % len(BODY))]
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)
            print(sent[0]["status"])
            print(*sys.modules)

uvicorn.Server = Server
"""


def test_a_receiver_takes_its_first_webhook_before_it_imports_what_other_parts_need(data: Path) -> None:
    sinks = {"here": {"type": "files", "path": str(data / "runs")}, "there": {"type": "s3", "bucket": "runs"}}
    routes = [{"name": "all", "to": ["here", "there"]}]
    config = {"sources": {"skyvern": {"secrets": ["s" * 20]}}, "sinks": sinks, "routes": routes}
    (data / "runhook.yaml").write_text(json.dumps(config))
    body = b'{"run_id": "tsk_1", "status": "completed"}'
    values = f"BODY = {body!r}\nSIGNATURE = {sign(body, 's' * 20).encode()!r}\n"
    arguments = ("serve", "--port", "0", "--config", str(data / "runhook.yaml"))

    shown, _ = imported(data, *arguments, program=values + RECEIVER + PROGRAM)

    status, modules = shown.splitlines()
    assert status == "202"
    assert (LATE | SINKS_AND_PEOPLE).isdisjoint(modules.split()), sorted(
        set(modules.split()) & (LATE | SINKS_AND_PEOPLE)
    )


def test_the_other_parts_of_a_receiver_need_nothing_of_sinks_and_little_for_people() -> None:
    program = "import sys; from receiver.cli.serve import late_parts; late_parts(); print(*sys.modules)"
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
