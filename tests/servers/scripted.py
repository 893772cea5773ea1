"""A scripted HTTP server on loopback for JSON APIs: it gives the next reply of its script, and records every call.

scripted_server   answers 200 without a script: scripted_server.script = [Reply(status=503), Reply(hang_up=True)]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.servers import http
from tests.servers.http import Request as Call

__all__ = ["Call", "Reply", "ScriptedServer"]


class Reply(http.Reply):
    """What one call gets. `hang_up`: close the connection instead. `more`: `delay`, `until` and `drip`."""

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"{}",
        headers: Mapping[str, str] | None = None,
        hang_up: bool = False,
        drop: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(status, dict(headers or {}), body, drop=drop or hang_up, **more)


class ScriptedServer(http.ScriptedServer):
    """One that has started. `calls`: every request so far."""

    def __init__(self) -> None:
        super().__init__()
        self.default = Reply()
        self.__enter__()

    @property
    def calls(self) -> list[Call]:
        return self.requests

    def wait_for_calls(self, count: int) -> list[Call]:
        """The calls as soon as there are `count`."""
        self.wait_for_requests(count)
        return list(self.calls)

    def close(self) -> None:
        self.__exit__()


@pytest.fixture
def scripted_server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def other_server() -> Iterator[ScriptedServer]:
    """A second one, elsewhere."""
    server = ScriptedServer()
    yield server
    server.close()
