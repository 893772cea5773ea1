"""Each function whose calls are steps of a part is where test_killed_at_each_step.py looks for it."""

from __future__ import annotations

import pkgutil

import pytest

from tests.support.steps import BUILT, STEPS


@pytest.mark.parametrize("path", [*STEPS, *BUILT])
def test_the_function_is_there(path: str) -> None:
    assert callable(pkgutil.resolve_name(path))
