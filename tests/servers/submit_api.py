"""A fake of Runhook's submit API, for the sink `resubmit`."""

from __future__ import annotations

import json
from typing import Any

from tests.servers.http import Reply, Request, ScriptedServer

ASKED: dict[str, Any] = {"prompt": "Get the invoice", "engine": "skyvern-1.0", "max_steps": 25, "title": None}


class FakeSubmitApi(ScriptedServer):
    """Knows every run as failed, with the request `asked`. `kept`: what it kept of that itself. A script is used first,
    but for what was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, Any] = ASKED
        self.beside: dict[str, Any] = {}
        self.beside_headers: dict[str, str] = {}
        self.kept: dict[str, Any] | None = None
        self.made: dict[str, str] = {}
        self.tests = 0

    def _next(self, request: Request) -> Reply:
        if request.path.endswith("?from=submission"):
            with self._lock:
                self.requests.append(request)
            return Reply(404) if self.kept is None else Reply(200, body=json.dumps(self.kept).encode())
        if self.script:
            return super()._next(request)
        with self._lock:
            self.requests.append(request)
            if request.method == "GET":
                said = {"status": "failed", "run_request": self.asked, **self.beside}
                return Reply(200, {"x-runhook-from": "skyvern", **self.beside_headers}, json.dumps(said).encode())
            if not isinstance(json.loads(request.body), dict):
                self.tests += 1
                return Reply(422, body=b'{"detail": []}')
            once = request.headers["idempotency-key"]
            headers = {"x-runhook-submission-id": f"sub_{once}"}
            if once in self.made:
                headers["idempotent-replayed"] = "true"
            run_id = self.made.setdefault(once, f"tsk_again_{len(self.made)}")
            if request.path.startswith("/api/v1/tasks"):
                return Reply(200, headers, json.dumps({"task_id": run_id}).encode())
            return Reply(200, headers, json.dumps({"run_id": run_id, "app_url": "https://app.example/1"}).encode())

    @property
    def submitted(self) -> dict[str, Any]:
        """The fields of the last submit."""
        return dict(json.loads([each for each in self.requests if each.method == "POST"][-1].body))
