"""API keys of callers: which are refused, and how long one is believed."""

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from receiver.domain import api_key
from receiver.ledger import Ledger, schema
from receiver.ledger.access import api_keys
from receiver.ledger.database.async_ledger import AsyncLedger
from receiver.web import keys
from receiver.web.keys import Authenticator
from receiver.web.responses import Refusal
from tests.support.ledger import with_tables


class CountedLedger(AsyncLedger):
    """A ledger that notes when it is read."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self.reads: list[float] = []

    async def read(self, *arguments: Any, **named: Any) -> Any:
        self.reads.append(time.monotonic())
        return await super().read(*arguments, **named)


class Refusals:
    """An authenticator, a clock of its own, and a ledger with one key whose reads are counted."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: str | None = None) -> None:
        self.now = 1000.0
        clock = SimpleNamespace(monotonic=lambda: getattr(self, "now", None) or time.monotonic(), time=time.time)
        monkeypatch.setattr(keys, "time", clock)
        self.ledger = with_tables(Ledger(f"sqlite:///{tmp_path}/ledger.db"))
        self.key = api_key.derive("master", "k1")
        row = api_keys.Key("k1", "app", api_key.digest(self.key), "", frozenset({"read"}), "skyvern", None, 1.0)
        self.ledger.write(lambda connection: api_keys.create(connection, row))
        self.counts: dict[str, int] = {}
        unreachable = redis.Redis(port=1, retry=None)
        self._asked = CountedLedger(self.ledger)
        self.reads = self._asked.reads
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


async def test_guessed_keys_cost_one_read_and_are_logged_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a stranger who guesses keys, and a receiver that has seen no valid one yet
    it = Refusals(tmp_path, monkeypatch)
    statuses = await asyncio.gather(*(it.call(guess) for guess in guesses(100)))
    # Then all are refused and counted, one read serves all, and the log has some lines without a complete key
    assert statuses == [403] * 100
    assert len(it.reads) == 1
    assert it.counts == {"bad_key": 100}
    lines = [
        line for line in caplog.messages if line.startswith("submit.refused reason=bad_key status=403 key=rhk_0000")
    ]
    assert 1 <= len(lines) <= 11
    assert "x" * 43 not in caplog.text
    # And a valid key is served at once
    assert await it.call(it.key) == 200
    await it.close()


async def test_unknown_keys_share_one_read_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Refusals(tmp_path, monkeypatch)
    del it.now  # the real clock
    for _ in range(2):
        await asyncio.gather(*(it.call(guess) for guess in guesses(50)))
    assert len(it.reads) == 2
    assert it.reads[1] - it.reads[0] >= 1.0
    await it.close()


async def test_new_key_works_after_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Refusals(tmp_path, monkeypatch)
    other = api_key.derive("master", "k2")
    assert await it.call(other) == 403
    row = api_keys.Key("k2", "new", api_key.digest(other), "", frozenset({"read"}), "skyvern", None, 1.0)
    it.ledger.write(lambda connection: api_keys.create(connection, row))
    it.now += 1.0
    assert await it.call(other) == 200
    await it.close()


@pytest.mark.parametrize("key", ["", "sk-somebody-elses", "rhk_", "rhk_a_b_é", "rhk_" + "a" * 5000])
async def test_text_that_is_not_a_key_costs_no_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    it = Refusals(tmp_path, monkeypatch)
    assert [await it.call(key) for _ in range(50)] == [403] * 50
    assert (it.reads, it.counts) == ([], {"bad_key": 50})
    assert "somebody" not in caplog.text
    await it.close()


async def test_refused_calls_count_for_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Refusals(tmp_path, monkeypatch, rate="5/m")
    statuses = [await it.call(it.key, scope=scope) for scope in ("submit", None, "submit", "read", "operate", "read")]
    assert statuses == [403, 403, 403, 200, 403, 429]
    assert it.counts == {"scope": 4, "rate": 1}
    await it.close()


async def test_key_without_a_rate_has_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Refusals(tmp_path, monkeypatch)
    assert [await it.call(it.key) for _ in range(2002)] == [200] * 2000 + [429] * 2
    it.now += 0.014
    assert [await it.call(it.key) for _ in range(3)] == [200] * 2 + [429]
    await it.close()


async def test_revoked_key_is_believed_for_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a key that was used just now
    it = Refusals(tmp_path, monkeypatch)
    assert await it.call(it.key) == 200
    # When it is revoked
    assert it.ledger.write(lambda connection: api_keys.revoke(connection, "k1", 2.0))
    # Then it is refused after five seconds, for good
    statuses = []
    for seconds in (5.0, 0.001, 3600.0):
        it.now += seconds
        statuses.append(await it.call(it.key))
    assert statuses == [200, 403, 403]
    await it.close()


async def test_key_that_expired_since_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a key for another minute
    it = Refusals(tmp_path, monkeypatch)
    end = time.time() + 60
    it.ledger.write(lambda connection: connection.execute(sa.update(schema.keys).values(expires_at=end)))
    assert await it.call(it.key) == 200
    assert it.authenticator.remembered(it.key, 3600.0)
    # When it expires while no key can be read
    monkeypatch.setattr(keys, "time", SimpleNamespace(monotonic=lambda: it.now, time=lambda: end + 1))
    assert it.authenticator.remembered(it.key, 3600.0) is None
    await it.close()
