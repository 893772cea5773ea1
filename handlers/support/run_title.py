"""What a run is called in its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def titles(run: Mapping[str, Any]) -> list[str]:
    """Return the titles in a run's body, the likeliest first: of its workflow, of the run, of the request."""
    request = run.get("run_request")
    asked = request.get("title") if isinstance(request, dict) else None
    return [title for title in (run.get("workflow_title"), run.get("title"), asked) if isinstance(title, str)]
