"""Who may call: the key, its scope and its rate. An unknown key is answered as Skyvern answers one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import unquote

import redis

from receiver.config.fields import parse_rate
from receiver.domain import api_key
from receiver.ledger import LedgerDataError, LedgerUnavailable, api_keys
from receiver.ledger.api_keys import Key
from receiver.ledger.async_ledger import AsyncLedger
from receiver.runtime.throttle import RateLimits
from receiver.submit.replies import Refusal, error

FRESH_FOR = 5.0
"""Seconds that a key is known: so long does one that was revoked go on opening."""
NOTE_EVERY = 60.0
"""Seconds between two notes in the ledger that a key is in use."""
_MOST_KNOWN = 4096
INVALID: Final = "Invalid credentials"
_SUBMITS = frozenset({"/v1/run/tasks", "/v1/run/agents", "/v1/run/workflows", "/api/v1/tasks"})
_ROOTS = (("v1",), ("api", "v1"))
# Segments that hand out, or make, credentials of Skyvern itself.
_REFUSED = frozenset({"apikeys", "api_keys", "api-keys", "ui-session", "internal", ".", "..", ""})
# The ends of the paths below credentials/<vault> that tell the vault's own token or client secret.
_VAULT = frozenset({"get", "create"})
# Segments below which a GET tells codes of a second factor.
_CODES = frozenset({"totp", "totp-code"})


class Authenticator:
    """`default_rate`: for keys without one of their own, such as 10/s, or None."""

    def __init__(self, store: AsyncLedger, client: redis.Redis, default_rate: str | None) -> None:
        self._store = store
        self._redis = client
        self._default = default_rate
        self._known: dict[str, tuple[float, Key | None]] = {}
        self._looking: dict[str, asyncio.Task[Key | None]] = {}
        self._limits = RateLimits(client)
        self._noted: dict[str, float] = {}
        self._notes: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(2, "submit-rates")

    async def admit(self, headers: Mapping[str, str], scope: str | None) -> Key:
        """The caller's key. Raises Refusal: 403 for no key, a bad one or a scope it lacks, 429 over its rate.

        `scope`: None for a call that is passed on for nobody. Raises LedgerUnavailable.
        """
        key = await self._key(_given(headers))
        if key is None:
            raise Refusal(error(403, INVALID))
        if scope is None:
            raise Refusal(error(403, "This call is not passed on"))
        if scope not in key.scopes:
            raise Refusal(error(403, f"The key lacks the scope {scope}"))
        rate = key.rate or self._default
        if rate and not await self._take(key.id, rate):
            raise Refusal(error(429, "Rate limit exceeded. Please try again later.", retry_after="1"))
        return key

    async def holds(self, key: Key) -> bool:
        """Whether a key that was admitted some time ago opens anything still. Raises LedgerUnavailable."""
        return await self._found(key.hash) is not None

    async def _key(self, given: str) -> Key | None:
        return await self._found(api_key.digest(given)) if given.startswith("rhk_") else None

    async def _found(self, digest: str) -> Key | None:
        seen, key = self._known.get(digest, (float("-inf"), None))
        if time.monotonic() - seen <= FRESH_FOR:
            return key
        # One look serves all who ask: of a thousand requests that end in one moment, each asks once more.
        task = self._looking.get(digest)
        if task is None:
            task = self._looking[digest] = asyncio.create_task(self._look(digest))
            task.add_done_callback(lambda _: self._looking.pop(digest, None))
        return await asyncio.shield(task)

    async def _look(self, digest: str) -> Key | None:
        now = time.monotonic()
        key = await self._store.read(lambda connection: api_keys.by_hash(connection, digest))
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[digest] = (now, key)
        if key is not None and now - self._noted.get(key.id, float("-inf")) > NOTE_EVERY:
            self._noted[key.id] = now
            task = asyncio.create_task(self._note(key.id, time.time()))
            self._notes.add(task)
            task.add_done_callback(self._notes.discard)
        return key

    async def _note(self, key_id: str, at: float) -> None:
        """Note that the key was used. Beside the request: a ledger that takes no note must not refuse or delay it."""
        with contextlib.suppress(LedgerUnavailable, LedgerDataError):
            await self._store.write(lambda connection: api_keys.used(connection, key_id, at))

    async def _take(self, key_id: str, rate: str) -> bool:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._limits.take, f"key/{key_id}", parse_rate(rate)) > 0

    def close(self) -> None:
        """Let go of the threads and of Redis."""
        for task in self._notes:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._redis.close()


def _given(headers: Mapping[str, str]) -> str:
    """The key in `x-api-key`, or in `authorization` as a Bearer token."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return (headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")).strip()


def scope_of(method: str, path: str) -> str | None:
    """The scope that a call needs, or None when it is passed on for nobody. `path`: as it stands on the wire."""
    decoded = unquote(unquote(path)).replace("\\", "/")
    segments = tuple(decoded.lower().removesuffix("/").split("/")[1:])
    if not decoded.startswith("/") or _REFUSED & set(segments):
        return None
    if not any(segments[: len(root)] == root and len(segments) > len(root) for root in _ROOTS):
        return None
    if "credentials" in segments and segments[-1] in _VAULT:
        return None
    if method in ("GET", "HEAD"):
        return "operate" if _CODES & set(segments) else "read"
    if method not in ("POST", "PUT", "PATCH", "DELETE"):
        return None
    if method == "POST" and decoded.removesuffix("/") in _SUBMITS:
        return "submit"
    # Other calls that create runs: /v1/run/tasks/login, /v1/run/workflows/blocks, /v1/workflows/{id}/run.
    creates = method == "POST" and ("run" in segments[1:3] or segments[-1] == "run")
    return "submit" if creates else "operate"
