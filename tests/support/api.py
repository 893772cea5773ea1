"""Calls of the JSON API in the test's own process: as HTTP makes them, without HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import httpx2

from receiver.api.catalogue import ENDPOINTS
from receiver.api.endpoint import Endpoint
from receiver.api.service import Actor, Service
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.domain.api_key import OPERATE, VIEW
from receiver.ledger import Ledger
from receiver.ledger.access import audit
from tests.servers.submitting import Submitting
from tests.support.waiting import PATIENCE

BY_NAME: dict[str, Endpoint[Any, Any]] = {each.name: each for each in ENDPOINTS}


def actor(source: str = "", *scopes: str, name: str = "ada") -> Actor:
    """Who may view and operate, unless other scopes are named."""
    return Actor("user", name, frozenset(scopes or (VIEW, OPERATE)), source)


def service(ledger: Ledger, folder: Path, **config: Any) -> Service:
    """One with two sources and the sinks ops, chat and results, which write files; `config`: its other parts."""
    sinks = {name: {"type": "files", "path": str(folder / name)} for name in ("ops", "chat", "results")}
    sources = {name: {"secrets": [f"secret-of-{name}"], "api_key": f"key-of-{name}"} for name in ("skyvern", "other")}
    whole = {"sources": sources, "sinks": sinks, **config}
    settings = Settings.from_env(
        {
            "RUNHOOK_DATA": str(folder),
            "RUNHOOK_SECRET": "a-master-secret-of-the-tests",
            "DATABASE_URL": ledger.url.render_as_string(hide_password=False),
            "SKYVERN_BASE_URL": "http://127.0.0.1:9",
        }
    )
    return Service(settings, ledger, Config.model_validate(whole))


def call(it: Service, name: str, who: Actor | None = None, /, **parameters: Any) -> dict[str, Any]:
    """The result of a call, as JSON has it."""
    endpoint = BY_NAME[name]
    result = endpoint.call(it, who or actor(), endpoint.validated(parameters))
    told: dict[str, Any] = result.model_dump(mode="json")
    return told


class HasLedger(Protocol):
    """A service, or a receiver."""

    ledger: Ledger


def done(it: HasLedger) -> list[tuple[str, str, int, str]]:
    """What the audit has: action, actor, on how many, outcome; the oldest first."""
    found = it.ledger.read(lambda connection: audit.list_actions(connection, limit=500))
    return [(row.action, row.actor, row.count, row.outcome) for row in reversed(found)]


# What the Skyvern behind a receiver answers to whatever is passed on.
SKYVERNS = b'{"from":"skyvern"}'


def get(server: Submitting, path: str, key: str = "", **headers: str) -> httpx2.Response:
    headers |= {"authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
        return client.get(f"/api/v1{path}", headers=headers)


def problem(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert said["status"] == answer.status_code
    return said
