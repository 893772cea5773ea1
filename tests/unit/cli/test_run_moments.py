"""When the steps of a run came: on a terminal how long after the one before, elsewhere as ISO 8601."""

from __future__ import annotations

import pytest

from receiver.api.timeline import TimelineEntry
from receiver.cli.run import moments_of

BEGAN = 1_795_512_600.0


def entry(after: float, kind: str = "event") -> TimelineEntry:
    return TimelineEntry(at=BEGAN + after, kind=kind, text="it came", tone="info", id="evt_1")


def test_a_pipe_gets_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: False)

    assert moments_of([entry(0), entry(2)]) == ["2026-11-24T09:30:00Z", "2026-11-24T09:30:02Z"]


def test_a_terminal_gets_what_lies_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("time.time", lambda: BEGAN + 180)

    steps = [entry(0), entry(0.25), entry(75.25), entry(190, "next")]

    assert moments_of(steps) == ["3m ago", "+0.25 s", "+75 s", "in 10s"]
    assert moments_of([]) == []
