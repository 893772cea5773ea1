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


class Refusals:
    """An authenticator, a clock of its own, and a ledger with one key whose look-ups are counted."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: str | None = None) -> None:
        self.now = 1000.0
        monkeypatch.setattr(auth, "time", SimpleNamespace(monotonic=lambda: self.now, time=time.time))
        self.ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))
        self.key = api_key.derive("master", "k1")
        row = api_keys.Key("k1", "app", api_key.digest(self.key), "", frozenset({"read"}), "skyvern", None, 1.0)
        self.ledger.write(lambda connection: api_keys.create(connection, row))
        self.counts: dict[str, int] = {}
        self.looked_up: list[str] = []
        real = api_keys.by_hash
        monkeypatch.setattr(api_keys, "by_hash", lambda *args: (self.looked_up.append(args[1]), real(*args))[1])
        unreachable = redis.Redis(port=1, retry=None)
        self._asked = AsyncLedger(self.ledger)
        self.authenticator = Authenticator(self._asked, unreachable, rate, None, self.counts)

    async def call(self, key: str, address: str = "a", scope: str | None = "read") -> int:
        """Return the status of the refusal; 200 for none."""
        try:
            await self.authenticator.authenticate({"x-api-key": key}, scope, address)
        except Refusal as refusal:
            return refusal.reply.status
        return 200

    async def close(self) -> None:
        self.authenticator.close()
        await self._asked.close()  # once the use of a key is noted


def guesses(count: int) -> list[str]:
    return [f"rhk_{number:012x}_{'x' * 43}" for number in range(count)]


async def test_bad_keys_are_counted_logged_and_throttled_and_hold_up_no_known_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a caller behind the same address as a stranger who guesses keys
    it = Refusals(tmp_path, monkeypatch)
    assert await it.call(it.key) == 200

    # When the stranger tries many
    statuses = [await it.call(guess) for guess in guesses(100)]

    # Then few are looked up, all are counted, and the log has some lines without a whole key
    assert statuses == [403] * 19 + [429] * 81, "the first of twenty was the caller's own"
    assert len(it.looked_up) == 20
    assert it.counts == {"bad_key": 19, "throttled": 81}
    lines = [
        line for line in caplog.messages if line.startswith("submit.refused reason=bad_key status=403 key=rhk_0000")
    ]
    assert 1 <= len(lines) <= 11
    assert "x" * 43 not in caplog.text

    # and neither the caller nor another address is held up, and who waits may try again
    it.now += 10.0
    assert await it.call(it.key) == 200
    assert await it.call(guesses(1)[0].replace("rhk_0", "rhk_f"), "b") == 403
    assert await it.call(guesses(1)[0].replace("rhk_0", "rhk_e")) == 403
    await it.close()


async def test_many_addresses_together_are_throttled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Refusals(tmp_path, monkeypatch)
    statuses = [await it.call(guess, str(number)) for number, guess in enumerate(guesses(300))]
    assert statuses == [403] * 200 + [429] * 100
    await it.close()


async def test_a_valid_key_that_comes_first_after_a_start_is_held_up_by_no_guesses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a receiver that knows no key yet, and strangers who take all look-ups
    it = Refusals(tmp_path, monkeypatch)
    for number, guess in enumerate(guesses(300)):
        await it.call(guess, f"address {number % 50}")
    # When a caller comes by the same proxy as one of them
    assert await it.call(it.key, "address 1") == 200
    # Then a revoked key is a guess like any other
    it.ledger.write(lambda connection: api_keys.revoke(connection, "k1", 2.0))
    it.now += auth.CACHE_SECONDS + 0.1
    await it.authenticator._valid_hashes()
    for guess in guesses(300):
        await it.call(guess, "address 1")
    assert await it.call(it.key, "address 1") == 429
    await it.close()


@pytest.mark.parametrize("key", ["", "sk-somebody-elses", "rhk_", "rhk_a_b_é", "rhk_" + "a" * 5000])
async def test_what_has_not_the_form_of_a_key_costs_no_look_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    it = Refusals(tmp_path, monkeypatch)
    assert [await it.call(key) for _ in range(50)] == [403] * 50
    assert (it.looked_up, it.counts) == ([], {"bad_key": 50})
    assert "somebody" not in caplog.text
    await it.close()


async def test_calls_that_are_refused_count_for_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Refusals(tmp_path, monkeypatch, rate="5/m")
    statuses = [await it.call(it.key, scope=scope) for scope in ("submit", None, "submit", "read", "operate", "read")]
    assert statuses == [403, 403, 403, 200, 403, 429]
    assert it.counts == {"scope": 4, "rate": 1}
    await it.close()


async def test_a_key_for_which_nobody_set_a_rate_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "USUAL_RATE", (2.0, 5.0))
    it = Refusals(tmp_path, monkeypatch)
    assert [await it.call(it.key) for _ in range(7)] == [200] * 5 + [429] * 2
    it.now += 1.0
    assert [await it.call(it.key) for _ in range(3)] == [200] * 2 + [429]
    await it.close()


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
    asked = AsyncLedger(ledger)
    authenticator = Authenticator(asked, redis.Redis(), None)
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
    await asked.close()
