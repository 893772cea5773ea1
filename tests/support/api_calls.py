"""Calls of the JSON API over HTTP, as a script makes them."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.servers.submitting import Submitting
from tests.support.waiting import PATIENCE

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
