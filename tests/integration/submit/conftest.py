"""A caller's own server, and a look into the requests that wait for a run's end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from receiver.submit.long_poll import LongPoll
from tests.servers.http import ScriptedServer


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[LongPoll[Any, Any]]:
    """All that are made."""
    made: list[LongPoll[Any, Any]] = []
    before = LongPoll.__init__

    def note(self: LongPoll[Any, Any], *arguments: Any) -> None:
        made.append(self)
        before(self, *arguments)

    monkeypatch.setattr(LongPoll, "__init__", note)
    return made


@pytest.fixture
def caller() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server
