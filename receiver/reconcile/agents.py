"""The facts of agents, as GET /v1/agents/{id} tells them: what the polled body of a workflow's run lacks.

They are remembered for a while, so that the runs of one agent cost one call. A secret of an agent never gets here: only
FACTS are kept.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from receiver.domain.run import Run
from receiver.reconcile.source import PolledSource
from receiver.skyvern import Answered

FACTS: Final = ("workflow_id", "workflow_permanent_id", "organization_id", "title", "version")
# Seconds for which the facts of an agent are taken for true.
FRESH_FOR: Final = 600.0
_REMEMBERED: Final = 5000

Facts = Mapping[str, Any]


class AgentUnknown(Exception):
    """The agent can't be asked for now; its facts may be had later."""


def agent_of(run: Run) -> str:
    """Return the id of the agent whose facts the body of `run` lacks, "" when it lacks none or names no agent."""
    if run.run_type != "workflow_run" or run.data.get("workflow_title"):
        return ""
    request = run.data.get("run_request")
    if not isinstance(request, dict):
        return ""
    found = request.get("agent_id") or request.get("workflow_id")
    return found if isinstance(found, str) else ""


class AgentFacts:
    """The agents of all sources. Threads may share it."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], tuple[float, Facts]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, source: PolledSource, agent_id: str) -> Facts:
        """Return the facts of an agent, {} for one that is not there. Raises AgentUnknown."""
        key = source.name, agent_id
        with self._lock:
            known = self._known.get(key)
        if known and time.monotonic() - known[0] < FRESH_FOR:
            return known[1]
        if not source.budget(1):
            raise AgentUnknown("no call is left in the budget for its agent")
        answer = source.reader.get_agent(agent_id)
        found = answer.json() if isinstance(answer, Answered) and answer.ok else None
        if isinstance(found, dict):
            facts = {name: found[name] for name in FACTS if found.get(name) is not None}
        elif isinstance(answer, Answered) and answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            facts = {}  # deleted, or of a Skyvern that has no such call
        else:
            said = f"Skyvern answered {answer.status}" if isinstance(answer, Answered) else answer.reason
            raise AgentUnknown(f"its agent: {said}")
        with self._lock:
            self._known[key] = time.monotonic(), facts
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return facts
