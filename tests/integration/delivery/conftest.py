"""Fixtures of what is handed on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from receiver.runtime.handover import Handover


@pytest.fixture
def handover() -> Iterator[Handover]:
    it = Handover()
    yield it
    it.close()
