"""What Skyvern's blocks ask, and where its webhooks and ours go: one server on loopback that plays by the path."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.servers.http import Reply, Request, ScriptedServer

INVOICE = {"invoice": "A-1", "amount": 29.0, "lines": [1, 2]}


class Target(ScriptedServer):
    """`/ok`, `/bad` (500), `/slow/SECONDS`: for blocks. `/hook/…`: webhooks, answered as `statuses` says, else 200."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: dict[str, list[int]] = {}
        self.times: list[float] = []

    def _next(self, request: Request) -> Reply:
        path = request.path.partition("?")[0]
        with self._lock:
            self.requests.append(request)
            self.times.append(time.monotonic())
        if path.startswith("/hook/"):
            left = self.statuses.get(path.split("/")[2], [])
            return Reply(left.pop(0) if left else 200, {"retry-after": "0"}, b"{}")
        delay = float(path.rpartition("/")[2]) if path.startswith("/slow/") else 0.0
        headers = {"content-type": "application/json"}
        return Reply(500 if path == "/bad" else 200, headers, json.dumps(INVOICE).encode(), delay=delay)

    def hooks(self, name: str) -> list[Request]:
        """The requests to /hook/<name>, in the order in which they came."""
        return [each for each in list(self.requests) if each.path.partition("?")[0].split("/")[1:3] == ["hook", name]]

    def bodies(self, name: str) -> list[dict[str, Any]]:
        """Their bodies."""
        return [json.loads(each.body) for each in self.hooks(name)]
