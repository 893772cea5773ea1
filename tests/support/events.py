"""Bodies and events as Skyvern sends them, at their smallest."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st

from handlers.contract import Delivery
from handlers.testing.conformance import make_delivery
from receiver.domain.event import Event, event_id
from tests.support.paths import ROOT


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


RUN_IDS = {"task": "tsk_sample_123456789", "workflow": "wr_sample_123456789"}
_TIME = re.compile(rb"2026-11-25T16:04:26\.\d{6}Z")


def press(kind: str = "task", number: int = 0, *, run_id: str = "") -> bytes:
    """The body of the `number`th press, which differs from the others in its times only.

    `run_id`: one that was chosen, as the button's API lets a person do.
    """
    body = (ROOT / f"tests/support/bodies/button_{kind}.json").read_bytes().rstrip(b"\n")
    if run_id:
        body = body.replace(RUN_IDS[kind].encode(), run_id.encode())
    return _TIME.sub(f"2026-11-25T16:05:{number:02d}.605112Z".encode(), body)


_ABSENT = object()


def _lists(name: str) -> st.SearchStrategy[Any]:
    items = st.integers(0, 2).map(lambda number: {"filename": f"{name}{number}"})
    return st.sampled_from([_ABSENT, None]) | st.lists(items, max_size=3)


def _words(name: str) -> st.SearchStrategy[Any]:
    return st.sampled_from([_ABSENT, None, f"{name}-a", f"{name}-b"])


_FIELDS = {
    "output": st.sampled_from([_ABSENT, None, {}, [], {"n": 1}, {"n": 2.5}]),
    "errors": _lists("error"),
    "downloaded_files": _lists("file"),
    "screenshot_urls": _lists("picture"),
    "parameters": st.sampled_from([_ABSENT, None, {}, {"year": 2026}]),
    "failure_reason": _words("reason"),
    "summary": _words("summary"),
    "workflow_title": _words("title"),
    "recording_url": _words("recording"),
    "step_count": st.sampled_from([_ABSENT, None, 3, 4]),
    "finished_at": st.sampled_from([_ABSENT, None, "2026-03-01T10:02:05.25", "2026-03-01T10:02:06"]),
}


@st.composite
def run_events(draw: st.DrawFn, run_id: str = "wr_1") -> Delivery:
    """One event of `run_id`. Two draws are never the same event, though they may say the same."""
    run: dict[str, Any] = {
        "run_id": run_id,
        "run_type": "workflow_run",
        "status": draw(st.sampled_from(["running", "failed", "completed", "canceled"])),
        "attempt": draw(st.sampled_from([1, 1, 2])),
        "retry_pending": draw(st.booleans()),
    }
    moment = datetime(2026, 3, 1, 10, draw(st.integers(0, 5)), tzinfo=UTC)
    run["modified_at"] = draw(st.sampled_from([moment.replace(tzinfo=None).isoformat(), None]))
    found = {name: draw(values) for name, values in _FIELDS.items()}
    run |= {name: value for name, value in found.items() if value is not _ABSENT}
    labels = draw(st.sampled_from([{}, {"team": "billing"}]))
    return make_delivery(run, received_at=moment + timedelta(seconds=draw(st.integers(1, 3))), labels=labels)
