"""The JSON API of a receiver, beside the submit API, over a Skyvern that only says that it was asked.

api_server   a receiver: .url, .key("view", source="*"), .ledger
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.servers.scripted import Reply, ScriptedServer
from tests.servers.submitting import Submitting
from tests.support.api import SKYVERNS


@pytest.fixture
def api_server(submitting: Callable[..., Submitting], scripted_server: ScriptedServer) -> Submitting:
    scripted_server.default = Reply(200, SKYVERNS, {"content-type": "application/json"})
    return submitting(scripted_server.url, dispatching=False)
