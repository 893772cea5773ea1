"""Bodies and events as Skyvern sends them, at their smallest."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest

from receiver.domain.event import Event, event_id


def body(run_id: str, status: str = "completed", **fields: object) -> bytes:
    return json.dumps({"run_id": run_id, "run_type": "task_v1", "status": status, **fields}).encode()


def event(content: bytes, **fields: Any) -> Event:
    return Event(event_id("skyvern", content), "skyvern", content, time.time(), **fields)


def count_parses(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The texts that are parsed as JSON from now on, once for each time."""
    parsed: list[bytes] = []
    loads = orjson.loads
    monkeypatch.setattr(orjson, "loads", lambda text: (parsed.append(text), loads(text))[1])
    return parsed
