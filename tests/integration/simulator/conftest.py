"""A simulated Skyvern, and the server that its webhooks reach."""

from __future__ import annotations

import pytest

from tests.servers.scripted import ScriptedServer
from tests.servers.skyvern import SkyvernSimulator


@pytest.fixture
def sim(skyvern_simulator: SkyvernSimulator) -> SkyvernSimulator:
    return skyvern_simulator


@pytest.fixture
def hook(scripted_server: ScriptedServer) -> ScriptedServer:
    return scripted_server
