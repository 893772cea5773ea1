"""What a run's body says of its title, its attempt and its output. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def titles(run: Mapping[str, Any]) -> list[str]:
    """Return the titles in a run's body, the likeliest first: of its workflow, of the run, of the request."""
    request = run.get("run_request")
    asked = request.get("title") if isinstance(request, dict) else None
    return [title for title in (run.get("workflow_title"), run.get("title"), asked) if isinstance(title, str)]


def attempt_number(value: Any) -> int:
    """Return an attempt, from 1; 1 for any other value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 1 <= value < 2**31 else 1


def holds_nothing(value: Any) -> bool:
    """Whether `value` is null, or nothing but null in whatever objects and lists. One frame a level."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return value is None
    return all(map(holds_nothing, value))
