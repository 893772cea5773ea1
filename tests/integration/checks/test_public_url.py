"""What the doctor says of a PUBLIC_URL, by what answers there."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from receiver.checks import public_url
from receiver.checks.finding import Finding
from receiver.config.settings import Settings
from tests.servers.http import Authority, Reply, ScriptedServer
from tests.support.reports import WELL

OURS = json.dumps({"error": {"code": "bad_signature", "message": "no"}}).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as it:
        yield it


def examined(url: str, skyvern: str = "", **more: Any) -> dict[str, Finding]:
    """The findings about a PUBLIC_URL, by code."""
    settings = Settings.from_env({"PUBLIC_URL": url, "SKYVERN_BASE_URL": skyvern})
    return {each.code: each for each in public_url.of_answers(replace(WELL, settings=settings), **more)}


@pytest.mark.parametrize(
    ("reply", "todo"),
    [
        (Reply(401, body=OURS), ""),
        (Reply(401, body=b"<html>"), "the response is not the receiver's"),
        (Reply(404, body=b"[]"), "the response is not the receiver's"),
        (
            Reply(404, body=json.dumps({"error": {"code": "not_found", "message": ""}}).encode()),
            "remove /hooks from PUBLIC_URL",
        ),
        (
            Reply(301, headers={"location": "https://www.example/webhooks/skyvern"}),
            "https://www.example/webhooks/skyvern",
        ),
        (Reply(502), "the proxy in front can't reach it"),
        (Reply(200, body=b"ok"), "it accepts unsigned requests"),
        (Reply(drop=True), "start `runhook serve`"),
    ],
)
def test_each_response_has_its_remedy(server: ScriptedServer, reply: Reply, todo: str) -> None:
    server.script.append(reply)
    found = examined(f"{server.url}/hooks")["public_url.answer"]
    assert todo in found.todo
    assert found.ok == (todo == "")
    sent = server.requests[-1]
    assert sent.path == "/hooks/webhooks/skyvern"
    assert "x-skyvern-signature" not in sent.headers


def test_certificate_is_verified_and_its_end_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    with ScriptedServer(authority.server_context()) as server:
        url = f"https://localhost:{server.port}"
        unknown = examined(url)["public_url.tls"]
        assert "not valid" in unknown.what
        assert not unknown.ok
        # Given that its authority is known, it is valid, for a day
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
        server.script.append(Reply(401, body=OURS))
        found = examined(url)
        assert "renew it" in found["public_url.tls"].todo
        assert found["public_url.answer"].ok
        assert examined(url, expires_soon=3600.0)["public_url.tls"].ok


@pytest.mark.parametrize(
    ("addresses", "todo"),
    [
        (["8.8.8.8"], ""),
        (["8.8.8.8", "10.1.2.3"], "10.1.2.3 is a private address"),
        (["fd00::1"], "a private address"),
        (["169.254.169.254"], "a cloud metadata address"),
    ],
)
def test_private_address_of_a_name_is_reported(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, addresses: list[str], todo: str
) -> None:
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))],
    )
    server.script.append(Reply(401, body=OURS))
    found = examined(f"http://hooks.example.com:{server.port}", resolve=lambda *_: addresses)
    assert todo in found["public_url.host"].todo
    assert found["public_url.host"].ok == (todo == "")
    assert found["public_url.answer"].ok


def test_unknown_name_is_reported() -> None:
    assert "can't be resolved" in examined("https://no-such-name.invalid")["public_url.host"].what
