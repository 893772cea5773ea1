"""A receiver with a console in which everything has happened, in a thread of the test's own process. The other parts
only say that they are alive.

deployment         one for the tests of a module: .url, .ledger
empty_deployment   one in which nothing has happened yet: .fill("a hostile text")
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import pytest
from argon2 import PasswordHasher

from receiver.api.http import api
from receiver.checks.heartbeat import Heartbeat
from receiver.config.loader import file_hash
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.console.http import console
from receiver.domain import liveness
from receiver.ledger import Ledger
from receiver.web.app import create_app
from receiver.web.health import health
from simulator.server import Serving
from tests.support import demo_runs
from tests.support.console import PASSWORD
from tests.support.ledger import with_tables

SKYVERN_KEY: Final = "k"
ROUTES: Final = [
    {"name": "everything", "to": ["archive", "results"]},
    {"name": "failures", "when": {"status": ["failed", "timed_out", "terminated"]}, "to": ["chat", "again"]},
    {"name": "billing", "when": 'run.workflow_id == "wpid_400100"', "to": ["crm"]},
]


class ConsoleDeployment:
    """`url`: of the console; the admin's password is PASSWORD. `data`: its folder; `ledger`: to look at. `skyvern`: the
    address of a Skyvern that takes the key SKYVERN_KEY; nobody listens there if none is given. `more_sinks`: how many
    there are beside the usual ones."""

    def __init__(self, folder: Path, redis_url: str, skyvern: str = "http://127.0.0.1:9", more_sinks: int = 0) -> None:
        self.data, self.archive = folder / "data", folder / "archive"
        self.data.mkdir(parents=True)
        password = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
        environ = {
            "REDIS_URL": redis_url,
            "RUNHOOK_DATA": str(self.data),
            "RUNHOOK_SECRET": demo_runs.MASTER,
            "PUBLIC_URL": "https://hooks.example.com",
            "RUNHOOK_CONSOLE_PASSWORD": password,
        }
        people = {"ana": {"password": password, "scopes": ["view", "operate"], "source": "other"}}
        config = {
            "sources": {
                name: {"secrets": [f"secret-{name}"], "api_base": skyvern, "api_key": SKYVERN_KEY}
                for name in ("skyvern", "other")
            },
            "sinks": {
                "archive": {"type": "files", "path": str(self.archive)},
                **{name: {"type": "files", "path": str(folder / name)} for name in ("results", "chat", "crm")},
                **{f"sink{n}": {"type": "files", "path": str(folder / f"sink{n}")} for n in range(more_sinks)},
                "again": {"type": "resubmit", "base_url": "http://127.0.0.1:9", "key": "rhk_x"},
            },
            "routes": ROUTES,
            "spool": {"reserve_bytes": 0},
            "console": {"users": people},
        }
        path = folder / "runhook.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        settings = Settings.from_env({**environ, "RUNHOOK_CONFIG": str(path)})
        self.ledger = with_tables(Ledger(settings.database_url))
        checked, tag = Config.model_validate(config), file_hash(settings.config)
        self._heartbeats = [Heartbeat(settings, role, tag) for role in liveness.expected(checked.destinations)]
        self._serving = Serving(
            create_app(settings, checked, [health, api, partial(console, per_network=(1000.0, 1000.0))])
        )
        self.url = f"{self._serving.url}/console"

    def fill(self, text: str = "", mark: str = "") -> None:
        """Let everything happen. `text`: stands in each field that a stranger could choose; `mark`: of its runs."""
        demo_runs.fill(self.ledger, self.data, self.archive, text, mark)

    def __enter__(self) -> Self:
        self._serving.__enter__()
        for each in self._heartbeats:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._heartbeats:
            each.stop()
        self._serving.__exit__()
        self.ledger.close()


@pytest.fixture(scope="module")
def deployment(module_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleDeployment]:
    with console_deployment(module_redis_url, tmp_path_factory.mktemp("console")) as it:
        it.fill()
        yield it


@pytest.fixture(scope="module")
def empty_deployment(module_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleDeployment]:
    with console_deployment(module_redis_url, tmp_path_factory.mktemp("console")) as it:
        yield it


@contextmanager
def console_deployment(redis_url: str, folder: Path, **options: Any) -> Iterator[ConsoleDeployment]:
    """Start a deployment. `options`: see ConsoleDeployment."""
    with ConsoleDeployment(folder, redis_url, **options) as it:
        yield it
