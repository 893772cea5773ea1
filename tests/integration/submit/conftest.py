"""A caller's own server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.http import ScriptedServer


@pytest.fixture
def caller() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server
