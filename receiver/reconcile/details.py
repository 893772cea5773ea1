"""The details of a run: one more call of Skyvern's API has all that a poll lacks, with the webhook's values.

The calls (measured on 1.0.56): GET /api/v1/tasks/{id} for a task, /api/v2/tasks/{id} for a task_v2, and for a run of a
workflow /api/v1/workflows/{agent}/runs/{id}, or /v1/workflows/runs/{id} where the agent is not known.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from receiver.domain.run import Run, parse
from receiver.reconcile.source import PolledSource
from receiver.skyvern import Answered

Details = Mapping[str, Any]
# Seconds to wait for a call in the budget: less than a poll's lease.
BUDGET_WAIT: Final = 20.0
# Skyvern has no such call, no such run, or not for this key: older servers, runs of types that are not known yet.
_NONE = frozenset(
    {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.UNPROCESSABLE_ENTITY}
)


class DetailsUnavailable(Exception):
    """The details can't be had now; they may be later."""


def details_of(source: PolledSource, run: Run) -> Details:
    """Return the details of a polled `run`, {} where Skyvern has none. Raises DetailsUnavailable."""
    until = time.monotonic() + BUDGET_WAIT
    # While it waits it holds a poll's place, so no new polls use up the budget.
    if not source.wait_for_budget(lambda: time.monotonic() > until):
        raise DetailsUnavailable("no call is left in the budget for its details")
    request = run.data.get("run_request")
    agent = request.get("workflow_id") if isinstance(request, Mapping) else None
    answer = source.reader.get_details(run.run_type, run.run_id, agent if isinstance(agent, str) else "")
    if isinstance(answer, Answered):
        # As carefully as a body: what it holds goes to the same columns and sinks.
        if answer.ok and (found := parse(answer.body).data):
            return found
        if answer.status in _NONE:
            return {}
        raise DetailsUnavailable(f"its details: Skyvern answered {answer.status}")
    raise DetailsUnavailable(f"its details: {answer.reason}")
