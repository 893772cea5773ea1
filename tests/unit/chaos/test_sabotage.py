"""The safeguards that a chaos run can do without."""

import pkgutil

import pytest

from tests.chaos.sabotage import SAFEGUARDS


@pytest.mark.parametrize("path", sorted({path for each in SAFEGUARDS.values() for path in each}))
def test_each_safeguard_is_a_function_of_the_product(path: str) -> None:
    assert callable(pkgutil.resolve_name(path))
