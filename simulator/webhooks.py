"""Sending a webhook as Skyvern does: its headers, its signature, its three attempts, its pauses. Knows no run."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import httpx2

from handlers.support.retry_after import retry_after
from receiver.domain.signature import HEADER, sign
from simulator.options import Options

ATTEMPTS = 3
RETRY_AFTER_CAP = 30.0
# The 4xx that are retried, as is every 5xx. All other answers that are not 2xx, redirects among them, are not.
RETRIED = frozenset({403, 408, 425, 429})
USER_AGENT = "python-httpx/0.28.1"


def headers(body: bytes, key: str) -> dict[str, str]:
    """Return the headers of a webhook. The timestamp is not part of what is signed."""
    return {
        "x-skyvern-timestamp": str(int(time.time())),
        HEADER: sign(body, key),
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
    }


def pause(number: int, header: str | None, chance: float) -> float:
    """Return the pause after attempt `number`, in seconds: 1 to 2, then 2 to 3, or as the receiver asked, up to 30."""
    asked = retry_after({"retry-after": header or ""}, time.time())
    return min(asked, RETRY_AFTER_CAP) if asked is not None else 2.0 ** (number - 1) + chance


class Sender:
    """Sends webhooks, and counts attempts and outcomes in `stats`."""

    def __init__(self, options: Options, stats: Counter[str]) -> None:
        self._options = options
        self._stats = stats
        limits = httpx2.Limits(max_connections=100, max_keepalive_connections=0)
        timeout = httpx2.Timeout(options.webhook_timeout, pool=None)
        self._client = httpx2.AsyncClient(limits=limits, timeout=timeout, trust_env=False, follow_redirects=False)

    async def send(self, url: str, body: bytes, key: str, attempts: int = ATTEMPTS) -> tuple[int | None, str]:
        """Send one webhook. Returns the last status, if there was one, and why delivery failed, or ""."""
        sent = headers(body, key)
        status: int | None = None
        failure = ""
        for number in range(1, attempts + 1):
            status, failure, asked = await self._once(url, body, sent)
            if not failure:
                self._stats["webhooks_delivered"] += 1
                return status, ""
            if status is not None and status not in RETRIED and status < 500:
                break
            if number < attempts:
                await asyncio.sleep(self._options.pause(pause(number, asked, random.random())))
        self._stats["webhooks_failed"] += 1
        return status, failure

    async def _once(self, url: str, body: bytes, sent: dict[str, str]) -> tuple[int | None, str, str | None]:
        self._stats["webhook_attempts"] += 1
        try:
            response = await self._client.post(url, content=body, headers=sent)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            words = type(error).__name__ + (f": {error}" if str(error) else "")
            return None, f"Webhook delivery failed before receiving a response: {words}", None
        if response.is_success:
            return response.status_code, "", None
        text = f"Webhook failed with status code {response.status_code}, error message: {response.text[:500]}"
        return response.status_code, text, response.headers.get("retry-after")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
