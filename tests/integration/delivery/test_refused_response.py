"""What a refusing server answered is kept with the attempt: cut, without secrets, in `attempts`, `run` and the API."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from receiver.config.loader import load
from receiver.config.settings import Settings
from receiver.delivery.runner import build
from receiver.ledger import Ledger
from tests.servers.http import Reply, ScriptedServer
from tests.support.command import run_command
from tests.support.ledger import new_event, record
from tests.support.runners import address, run_out


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as it:
        yield it


def attempts_after(
    reply: Reply, server: ScriptedServer, ledger: Ledger, redis_url: str, tmp_path: Path, monkeypatch: Any
) -> tuple[str, str]:
    """Send one delivery to a server that gives this reply; returns the response that is kept, and `runhook run`."""
    monkeypatch.setenv("DATABASE_URL", address(ledger))
    monkeypatch.setenv("RUNHOOK_CONFIG", str(tmp_path / "c.yaml"))
    monkeypatch.setenv("COLUMNS", "400")
    url = server.url.replace("://", "://crm:pass-word-1@") + "/hooks/path-secret?token=query-secret"
    sink = {"type": "http", "url": url, "secret": "signing-secret", "headers": {"x-api-key": "header-secret"}}
    config = {
        "sources": {"skyvern": {"secrets": ["s"]}},
        "sinks": {"crm": sink},
        "routes": [{"name": "all", "to": ["crm"]}],
        "redact": ["**.totp_url"],
    }
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    server.script += [reply]
    record(ledger, new_event("tsk_1", "crm"), now=time.time())
    settings = Settings.from_env({"DATABASE_URL": address(ledger), "REDIS_URL": redis_url})
    with redis.Redis.from_url(redis_url) as client:
        run_out(build(settings, load(tmp_path / "c.yaml", {}), "crm", "w", ledger, client))
    (row,) = json.loads(run_command("attempts", "tsk_1", "--json"))
    return row["response"], run_command("run", "tsk_1")


@pytest.mark.parametrize("status", [422, 503])
def test_refusing_servers_response_is_kept_without_secrets(
    status: int, server: ScriptedServer, ledger: Ledger, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a server that says what is wrong, and repeats the secrets of the request and a field that is masked
    said = b"""{"error": "amount must be a number", "path": "/hooks/path-secret?token=query-secret",
        "totp_url": "hidden", "headers": ["header-secret", "Basic Y3JtOnBhc3Mtd29yZC0x"],
        "key": "signing-secret", "nul": "\\0"}"""

    response, run = attempts_after(Reply(status, {}, said), server, ledger, redis_url, tmp_path, monkeypatch)

    assert response.startswith('{"error": "amount must be a number", ')
    assert "amount must be a number" in run
    for secret in ("path-secret", "query-secret", "header-secret", "Y3JtOn", "signing-secret", "hidden", "\0"):
        assert secret not in response + run, secret
    assert '"totp_url": "[redacted]"' in response
    assert "amount must be a number" in run_command("attempts", "tsk_1")


def test_at_most_2_kb_of_a_response_are_kept(
    server: ScriptedServer, ledger: Ledger, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = Reply(400, {}, "é".encode() * 50_000)
    response, _ = attempts_after(reply, server, ledger, redis_url, tmp_path, monkeypatch)
    assert response == "é" * 1024


def test_accepted_delivery_keeps_no_response(
    server: ScriptedServer, ledger: Ledger, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    response, _ = attempts_after(Reply(200, {}, b"thanks"), server, ledger, redis_url, tmp_path, monkeypatch)
    assert response == ""
