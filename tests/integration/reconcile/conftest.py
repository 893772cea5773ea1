"""Reconcilers that end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.reconciling import MakeRig, Rig, Rigged
from tests.support.waiting import eventually


@pytest.fixture
def rig(tmp_path: Path, redis_url: str, request: pytest.FixtureRequest) -> Iterator[MakeRig]:
    """Make a reconciler at this server, or at the simulated Skyvern."""
    made: list[Rig] = []

    def make(server: Any = None, url: str = redis_url, **config: Any) -> Rig:
        made.append(Rig(server or request.getfixturevalue("skyvern_simulator"), tmp_path, url, **config))
        return made[-1]

    yield make
    for each in made:
        for source in each.reconciler.sources:
            source.budget = lambda wanted: wanted  # a poll may wait 20 s for a call in it
        each.reconciler.close()
        eventually(lambda each=each: not each.reconciler._running.total())  # type: ignore[misc]
        each.dispatcher.close()  # and its ledger


@pytest.fixture
def rigged(rig: MakeRig) -> Rigged:
    """Make a reconciler at the simulated Skyvern; return both."""

    def make(**config: Any) -> Any:
        made = rig(**config)
        return made, made.sim

    return make
