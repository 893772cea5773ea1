"""The date of answers: made when one is sent, once a second."""

from __future__ import annotations

import pytest

from receiver.web.http_protocol import DatedState


def test_the_date_is_that_of_the_answer_though_nothing_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_784_000_000.9
    monkeypatch.setattr("time.time", lambda: now)
    state = DatedState()

    first = state.default_headers
    assert first == [(b"date", b"Tue, 14 Jul 2026 03:33:20 GMT")]
    assert state.default_headers is first

    now += 0.1
    assert state.default_headers == [(b"date", b"Tue, 14 Jul 2026 03:33:21 GMT")]
