"""Events of one run, drawn at random: any status, attempt and time, and each field there, null, empty or absent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from handlers.contract import Delivery
from handlers.testing.conformance import make_delivery

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
