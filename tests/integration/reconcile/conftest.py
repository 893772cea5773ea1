"""Reconcilers that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.skyvern import SkyvernSimulator
from tests.support.reconciling import Rig
from tests.support.waiting import eventually


@pytest.fixture
def rig(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(sim: SkyvernSimulator, url: str = redis_url, **config: Any) -> Rig:
        made.append(Rig(sim, tmp_path, url, **config))
        return made[-1]

    yield make
    for each in made:
        for source in each.reconciler.sources:
            source.budget = lambda wanted: wanted  # a poll may wait 20 s for a call in it
        each.reconciler.close()
        eventually(lambda each=each: not each.reconciler._running.total())  # type: ignore[misc]
        each.ledger.close()
