"""The calls that make runs and take a callback URL: their paths, and what differs between them. Pure.

Read in the source of Skyvern 1.0.56. What else makes runs is no submission: `POST /v1/run/workflows/blocks` is for the
debugger of its own editor, and `POST /v1/workflows/runs/{id}/retry` takes no body in which a URL of ours could stand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`name`: what the ledger calls it. `member`: the field of the request that holds the callback URL. `answer`: what
    the run is told as: a run as in GET /v1/runs/{id}, or only the id of a task, or of a workflow's run."""

    name: str
    path: str
    member: str = "webhook_url"
    answer: Literal["run", "task", "workflow run"] = "run"

    @property
    def fixed(self) -> bool:
        """Whether its path says nothing of the request."""
        return "{" not in self.path


CALLS: Final = (
    Endpoint("tasks", "/v1/run/tasks"),
    Endpoint("agents", "/v1/run/agents"),
    Endpoint("workflows", "/v1/run/workflows"),
    Endpoint("login", "/v1/run/tasks/login"),
    Endpoint("download_files", "/v1/run/tasks/download_files"),
    Endpoint("legacy", "/api/v1/tasks", "webhook_callback_url", "task"),
    Endpoint("legacy_workflow", "/api/v1/workflows/{workflow_id}/run", "webhook_callback_url", "workflow run"),
)
_BY_NAME: Final = {call.name: call for call in CALLS}


def short_answer(name: str, run_id: str, run: Any = None) -> bytes | None:
    """What the call answers when it tells no more than ids. `run`: as GET tells it, or None when it was not asked for.

    None when the call answers with the run itself, or when `run` is needed and is none.
    """
    call = _BY_NAME.get(name)
    if call is None or call.answer == "run":
        return None
    if call.answer == "task":
        return json.dumps({"task_id": run_id}).encode()
    request = run.get("run_request") if isinstance(run, Mapping) else None
    workflow = request.get("workflow_id") if isinstance(request, Mapping) else None
    return json.dumps({"workflow_id": workflow, "workflow_run_id": run_id}).encode() if workflow else None
