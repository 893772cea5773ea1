"""Each safeguard that the chaos run can take out is where it looks for it."""

from __future__ import annotations

import pkgutil

import pytest

from tests.chaos.sabotage import SAFEGUARDS


@pytest.mark.parametrize("path", [path for paths in SAFEGUARDS.values() for path in paths])
def test_the_function_is_there(path: str) -> None:
    assert callable(pkgutil.resolve_name(path))
