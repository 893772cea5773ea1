"""What a run is called in its body."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def titles(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield the titles in a run's body, the likeliest first: of its workflow, of the run, of the request."""
    request = run.get("run_request")
    asked = request.get("title") if isinstance(request, Mapping) else None
    return (title for title in (run.get("workflow_title"), run.get("title"), asked) if isinstance(title, str))
