"""Read status, title, prompt, attempt and output from a run's body. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

FINAL: Final = frozenset({"completed", "failed", "terminated", "timed_out", "canceled"})
# Final statuses after which another try may succeed. A cancelled run was stopped by a person.
FAILED: Final = frozenset({"failed", "terminated", "timed_out"})


def titles(run: Mapping[str, Any]) -> list[str]:
    """Return the titles in a run's body, best first: of its workflow, the run, the request."""
    candidates = (run.get("workflow_title"), run.get("title"), _asked(run, "title"))
    return [title for title in candidates if isinstance(title, str)]


def prompts(run: Mapping[str, Any]) -> list[str]:
    """Return the prompts in a run's body or request, best first."""
    candidates = (run.get("prompt"), _asked(run, "prompt"), run.get("navigation_goal"))
    return [prompt for prompt in candidates if isinstance(prompt, str)]


def _asked(run: Mapping[str, Any], name: str) -> Any:
    request = run.get("run_request")
    return request.get(name) if isinstance(request, dict) else None


def attempt_number(value: Any) -> int:
    """Return an attempt, from 1; 1 for any other value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 1 <= value < 2**31 else 1


def holds_nothing(value: Any) -> bool:
    """Whether `value` is null, or only nested nulls. Recurses one frame per level."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return value is None
    return all(map(holds_nothing, value))
