"""/metrics and /readyz?all on the port that everybody reaches: for keys that may view all sources, and nobody else."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from starlette.requests import Request
from starlette.testclient import TestClient

from receiver.api.http import OperatorKeys, api
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain import api_key
from receiver.errors import Busy
from receiver.ledger import Ledger
from receiver.ledger.access import api_keys
from receiver.ledger.access.api_keys import Key
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.ledger.migrate import HEAD
from receiver.web.app import create_app
from receiver.web.health import health
from receiver.web.keys import Authenticator, presented_key
from receiver.web.metrics import metrics
from tests.servers.gate import Gate
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import with_tables
from tests.support.waiting import PATIENCE, eventually

PATHS = ("/metrics", "/readyz?all")
PROMETHEUS = {"user-agent": "Prometheus/3.5.0", "accept": "application/openmetrics-text"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("receiver")


def client_of(folder: Path, database_url: str = "") -> TestClient:
    environ = {"REDIS_URL": "redis://127.0.0.1:1/0", "RUNHOOK_DATA": str(folder), "DATABASE_URL": database_url}
    config = Config.model_validate({"sources": {"skyvern": {"secrets": ["s"]}}, "spool": {"reserve_bytes": 0}})
    return TestClient(create_app(Settings.from_env(environ), config, [health, metrics, api]))


@pytest.fixture(scope="module")
def ledger(folder: Path) -> Iterator[Ledger]:
    it = with_tables(Ledger(f"sqlite:///{folder / 'ledger.db'}"))
    yield it
    it.close()


@pytest.fixture(scope="module")
def client(folder: Path, ledger: Ledger) -> Iterator[TestClient]:  # it needs the tables
    with client_of(folder) as it:
        yield it


def new_key(ledger: Ledger, *scopes: str, source: str = "*") -> str:
    key_id = os.urandom(6).hex()
    whole = api_key.derive("m", key_id)
    row = Key(key_id, "p", api_key.digest(whole), api_key.hint(whole), frozenset(scopes), source, None, time.time())
    ledger.write(lambda connection: api_keys.create(connection, row))
    return whole


def bearer(key: str) -> dict[str, str]:
    return {**PROMETHEUS, "authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("scopes", "source", "status", "code"),
    [
        (("submit", "read", "operate"), "skyvern", 403, "forbidden"),
        (("view",), "skyvern", 403, "forbidden"),
        (("view",), "*", 200, ""),
        (("view", "operate"), "*", 200, ""),
    ],
)
def test_only_a_key_for_all_sources_opens_metrics(
    client: TestClient, ledger: Ledger, path: str, scopes: tuple[str, ...], source: str, status: int, code: str
) -> None:
    answer = client.get(path, headers=bearer(new_key(ledger, *scopes, source=source)))
    if path != "/metrics" and status == 200:  # Redis is away, and so is every other part; only who may know is told
        assert answer.status_code == 503
        assert "redis" in answer.json()["wrong"]
    else:
        assert answer.status_code == status
        assert (answer.json()["error"]["code"] if code else "") == code


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers", [{}, bearer("rhk_0_0"), {"x-forwarded-for": "127.0.0.1"}, {"authorization": "Basic x"}]
)
def test_metrics_without_a_key_show_nothing(client: TestClient, path: str, headers: dict[str, str]) -> None:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert set(answer.json()) == {"error"}
    assert "`runhook keys " in answer.json()["error"]["message"]  # which make one, or show which there are


def test_health_and_readiness_need_no_key(client: TestClient) -> None:
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_readiness_names_a_ledger_of_another_schema(tmp_path: Path) -> None:
    its = with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))
    key = bearer(new_key(its, "view"))
    its.write(lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))

    with client_of(tmp_path) as client:
        answer = client.get("/readyz?all", headers=key)
        assert client.get("/readyz").status_code == 200  # webhooks are taken
    its.close()

    assert answer.status_code == 503
    assert answer.json()["wrong"]["ledger"] == f"the ledger's schema is 9999, and this version of Runhook needs {HEAD}"


async def test_hanging_ledger_hides_no_metrics_from_a_known_key(
    postgres: PostgresProcess, postgres_ledger: Ledger
) -> None:
    # Given a receiver whose ledger answers, and a key that has read the metrics
    known, unknown = new_key(postgres_ledger, "view"), "rhk_0_0"
    with Gate(postgres.port) as gate:
        ledger = AsyncLedger(Ledger(postgres_ledger.url.set(port=gate.port).render_as_string(hide_password=False)))
        keys = Authenticator(ledger, redis.Redis(port=1, retry=None), None, cached_for=0.0)

        async def check(key: str, patience: float, trusted_for: float = 60.0) -> None:
            checks = OperatorKeys(
                lambda request: keys.authenticate(request.headers, "view"),
                lambda request: keys.remembered(presented_key(request.headers), trusted_for),
                patience,
            )
            await checks.check(Request({"type": "http", "headers": [(b"x-api-key", key.encode())]}))

        await check(known, PATIENCE)
        noted = "SELECT count(used_at) FROM keys"
        await asyncio.to_thread(
            eventually, lambda: postgres_ledger.read(lambda it: it.exec_driver_sql(noted).scalar_one()) == 1
        )
        # When it does not say any more which keys are valid
        caught = gate.catch(b"FROM keys", "after")
        # Then that key is still accepted for a day, and one that was not among the keys is refused for now
        await check(known, 0.3)
        for key, trusted_for in ((unknown, 60.0), (known, 0.1)):
            with pytest.raises(Busy) as refused:
                await check(key, 0.3, trusted_for)
            assert refused.value.headers["Retry-After"] == "5"
        assert caught.fired
        gate.forget()
        keys.close()
        await ledger.close()
