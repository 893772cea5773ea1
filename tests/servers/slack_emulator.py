"""A Slack that we did not write: emulate (npm), which plays Slack's API with state, on loopback.

emulated_slack   one channel of it, new for each test; the test is skipped where node, npm or the package is missing

It accepts any message and never fails on purpose: for that there is tests/servers/slack.py.
"""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.servers.skyvern_sdk import CACHE, install_once
from tests.servers.valkey import free_port
from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.waiting import PATIENCE, eventually

PACKAGE = "emulate@0.11.2"  # newer ones want a newer node
TOKEN = "xoxb-whole"
BLIND_TOKEN = "xoxb-may-not-read"
SCOPES = ("chat:write", "channels:read", "channels:history", "channels:manage", "files:read", "files:write")

_numbers = itertools.count(1)


class EmulatedSlack:
    """A workspace with the channel `channel`. `webhook_url` posts to its channel general."""

    token = TOKEN
    blind_token = BLIND_TOKEN

    def __init__(self, url: str) -> None:
        self.url = url
        self.api_url = url + "/api/"
        self.webhook_url = f"{url}/services/T000000001/B000000001/X000000001"
        self._client = httpx2.Client(
            base_url=self.api_url, headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=PATIENCE
        )
        name = f"channel-{next(_numbers)}"
        self.channel: str = self.call("conversations.create", name=name)["channel"]["id"]

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the Web API with the token that may do everything."""
        answer: dict[str, Any] = self._client.post(method, json=arguments).json()
        assert answer["ok"], answer
        return answer

    @property
    def top(self) -> list[dict[str, Any]]:
        """The channel's messages that are no replies, oldest first."""
        return list(reversed(self.call("conversations.history", channel=self.channel)["messages"]))

    def replies(self, ts: str) -> list[dict[str, Any]]:
        """The replies to a message, oldest first."""
        found = self.call("conversations.replies", channel=self.channel, ts=ts)["messages"]
        return [each for each in found if each["ts"] != ts]

    def in_general(self) -> list[dict[str, Any]]:
        """The messages of the channel that the webhook posts to."""
        listed = self.call("conversations.list")["channels"]
        (general,) = [each["id"] for each in listed if each["name"] == "general"]
        messages: list[dict[str, Any]] = self.call("conversations.history", channel=general, limit=1000)["messages"]
        return messages

    def content(self, file: dict[str, Any]) -> bytes:
        """The bytes of a file that was uploaded."""
        return self._client.get(file["url_private"]).content

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="session")
def _emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if missing := [name for name in ("node", "npm") if not shutil.which(name)]:
        pytest.skip(f"emulate needs {' and '.join(missing)}")
    home = CACHE / PACKAGE.replace("@", "-")
    install_once(home, PACKAGE)
    port = free_port()
    tokens = [
        {"token": TOKEN, "scopes": SCOPES, "type": "bot"},
        {"token": BLIND_TOKEN, "scopes": ["chat:write"], "type": "bot"},
    ]
    seed = {"slack": {"strict_scopes": True, "tokens": tokens}}
    module = (home / "node_modules" / "emulate" / "dist" / "api.js").as_uri()
    script = ROOT / "tests" / "servers" / "slack_emulator.mjs"
    log: Path = tmp_path_factory.mktemp("emulate") / "log"
    process = launch(["node", str(script), module, str(port), json.dumps(seed)], log)
    try:
        eventually(lambda: process.poll() is not None or "ready" in log.read_text(), what=log.read_text)
        assert process.poll() is None, log.read_text()[-3000:]
        eventually(lambda: _accepts(port), what=log.read_text)  # it says that it is ready before it listens
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


@pytest.fixture
def emulated_slack(_emulator: str) -> Iterator[EmulatedSlack]:
    slack = EmulatedSlack(_emulator)
    yield slack
    slack.close()
