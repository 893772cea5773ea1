"""Which scope a call needs, and how long a key is believed."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from receiver.domain import api_key
from receiver.ledger import Ledger, api_keys
from receiver.ledger.async_ledger import AsyncLedger
from receiver.submit import auth
from receiver.submit.auth import Authenticator
from receiver.submit.replies import Refusal
from tests.support.ledger import with_tables


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/run/tasks", "submit"),
        ("POST", "/v1/run/agents/", "submit"),
        ("POST", "/v1/run/workflows", "submit"),
        ("POST", "/api/v1/tasks", "submit"),
        ("POST", "/v1/run/tasks/login", "submit"),
        ("POST", "/api/v1/workflows/wpid_1/run", "submit"),
        ("GET", "/v1/runs/tsk_1", "read"),
        ("HEAD", "/v1/artifacts/a_1/content", "read"),
        ("POST", "/v1/runs/tsk_1/cancel", "operate"),
        ("POST", "/v1/runs/cancel", "operate"),
        ("POST", "/v1/runs/tsk_1/retry_webhook", "operate"),
        ("DELETE", "/v1/browser_sessions/x", "operate"),
        ("GET", "/api/v1/organizations/o_1/apikeys", None),
        ("GET", "/api/v1/organizations/o_1/APIKEYS/", None),
        ("GET", "/api/v1/organizations/o_1/%61pikeys", None),
        ("GET", "/api/v1/organizations/o_1/%2561pikeys", None),
        ("POST", "/v1/ui-session", None),
        ("POST", "/api/v1/UI-session/", None),
        ("GET", "/v1/credentials/onepassword/get", None),
        ("GET", "/v1/credentials/azure_credential/get/", None),
        ("POST", "/v1/credentials/custom_credential/create", None),
        ("GET", "/v1/credentials/cred_1/totp-code", "operate"),
        ("GET", "/v1/credentials/totp/", "operate"),
        ("GET", "/v1/credentials/cred_1", "read"),
        ("POST", "/v1/credentials/cred_1/update", "operate"),
        ("GET", "/v1/../internal/x", None),
        ("GET", "/v1/%2e%2e/x", None),
        ("GET", "/v1//runs", None),
        ("GET", "/internal/auth", None),
        ("GET", "/v1", None),
        ("GET", "/metrics", None),
        ("TRACE", "/v1/runs", None),
    ],
)
def test_the_scope_of_a_call(method: str, path: str, scope: str | None) -> None:
    assert auth.scope_of(method, path) == scope


async def test_a_revoked_key_is_believed_for_five_seconds_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a key that was used just now
    now = 1000.0
    monkeypatch.setattr(auth, "time", SimpleNamespace(monotonic=lambda: now, time=time.time))
    ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    key = api_key.derive("master", "k1")
    row = api_keys.Key("k1", "app", api_key.digest(key), "", frozenset({"read"}), "skyvern", None, 1.0)
    ledger.write(lambda connection: api_keys.create(connection, row))
    authenticator = Authenticator(AsyncLedger(ledger), redis.Redis(), None)
    await authenticator.authenticate({"x-api-key": key}, "read")
    # When it is revoked
    assert ledger.write(lambda connection: api_keys.revoke(connection, "k1", 2.0))
    # Then it is refused after five seconds, for good
    now += 5.0
    assert (await authenticator.authenticate({"x-api-key": key}, "read")).id == "k1"
    now += 0.001
    for _ in range(2):
        with pytest.raises(Refusal) as refusal:
            await authenticator.authenticate({"x-api-key": key}, "read")
        assert refusal.value.reply.status == 403
        now += 3600.0
    authenticator.close()
    ledger.close()
