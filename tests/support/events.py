"""Bodies and events as Skyvern sends them, at their smallest."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from receiver.domain import run
from receiver.domain.event import Event, event_id
from receiver.skyvern.responses import Answered


def body(run_id: str, status: str = "completed", **fields: object) -> bytes:
    return json.dumps({"run_id": run_id, "run_type": "task_v1", "status": status, **fields}).encode()


def event(content: bytes, **fields: Any) -> Event:
    return Event(event_id("skyvern", content), "skyvern", content, time.time(), **fields)


def count_parses(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies of runs that are parsed from now on, once for each time."""
    parsed: list[bytes] = []
    load, read = run._load, Answered.json
    monkeypatch.setattr(run, "_load", lambda content: (parsed.append(content), load(content))[1])
    monkeypatch.setattr(Answered, "json", lambda self: (parsed.append(self.body), read(self))[1])
    return parsed
