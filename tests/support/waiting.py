"""Waiting for a state: the one way in which tests do it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 120.0
"""Seconds after which a test fails. They claim nothing: a machine may have other things to do."""


def eventually(
    check: Callable[[], Any], seconds: float = PATIENCE, *, every: float = 0.02, what: Callable[[], object] = str
) -> Any:
    """Return what `check` returns once that is true; an AssertionError in it means not yet.

    Fails after `seconds`, with what `what` returns then. `every`: seconds between two checks.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline  # read first: a check that was begun in time counts
        try:
            if found := check():
                return found
        except AssertionError:
            if late:
                raise
        assert not late, f"not within {seconds:g} s\n{what()}"
        time.sleep(every)


def seconds_until(check: Callable[[], Any], seconds: float = PATIENCE, **options: Any) -> float:
    """Wait as `eventually` does. Return how long it took."""
    began = time.monotonic()
    eventually(check, seconds, **options)
    return time.monotonic() - began
