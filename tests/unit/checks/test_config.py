"""Settings that are allowed, but do not work with Skyvern."""

from pathlib import Path
from typing import Any

import pytest

from receiver.checks.config import refused_url, warnings
from receiver.config.models import Config
from receiver.config.settings import Settings
from receiver.config.skyvern_key import local_key


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://localhost:8000", "localhost"),
        ("http://LOCALHOST.", "localhost"),
        ("http://127.0.0.1:8000", "127.0.0.1"),
        ("http://10.1.2.3", "10.1.2.3"),
        ("http://[::1]:8000", "::1"),
        ("https://receiver.internal", "receiver.internal"),
        ("https://runhook.default.svc", "runhook.default.svc"),
        ("https://runhook.default.svc.cluster.local/x", "runhook.default.svc.cluster.local"),
        ("https://printer.local", "printer.local"),
    ],
)
def test_public_url_that_skyvern_refuses_is_reported(url: str, host: str) -> None:
    refused = refused_url(url)
    assert refused is not None
    assert f"Skyvern refuses a webhook_url on {host}, " in refused.what
    assert refused.todo.startswith("set PUBLIC_URL to where")


@pytest.mark.parametrize(
    "url",
    ["", "https://hooks.example.com", "http://8.8.8.8:8000", "https://local.example.com", "https://[2606:4700::1]"],
)
def test_public_url_that_skyvern_accepts_is_not_reported(url: str) -> None:
    assert refused_url(url) is None


def settings(tmp_path: Path, **environ: str) -> Settings:
    return Settings.from_env({"RUNHOOK_DATA": str(tmp_path), **environ})


def test_key_that_dev_made_does_not_work_at_skyvern(tmp_path: Path) -> None:
    settings(tmp_path).with_local_key()

    assert "was made here and opens nothing at Skyvern" in local_key(settings(tmp_path))
    assert local_key(settings(tmp_path, SKYVERN_BASE_URL="http://127.0.0.1:8100")) == ""
    assert local_key(settings(tmp_path, SKYVERN_API_KEY="real")) == ""


def test_local_key_in_a_variable_is_recognized(tmp_path: Path) -> None:
    parent = settings(tmp_path).with_local_key()

    child = settings(tmp_path, SKYVERN_API_KEY=parent.environ["SKYVERN_API_KEY"])

    assert child.local_key
    assert child.skyvern_base_url == ""
    assert local_key(child) == local_key(parent)


@pytest.mark.parametrize(
    ("source", "environ", "begin", "todo"),
    [
        ({}, {}, "", ""),
        ({"api_key": "k"}, {}, "PUBLIC_URL is not set", "Set it to where Skyvern reaches this receiver, "),
        ({"api_key": "k"}, {"PUBLIC_URL": "https://hooks.example.com"}, "", ""),
        (
            {"api_key": "k"},
            {"PUBLIC_URL": "http://localhost:8000"},
            "PUBLIC_URL: Skyvern refuses",
            "Set PUBLIC_URL to where Skyvern reaches this receiver, ",
        ),
        (
            {"api_key": "k"},
            {"PUBLIC_URL": "http://8.8.8.8:8000/hooks/"},
            "PUBLIC_URL: the receiver does not know the path /hooks: webhooks get 404",
            "Remove /hooks from PUBLIC_URL, or have the proxy in front remove it",
        ),
        # A proxy listens there, and may remove the path.
        ({"api_key": "k"}, {"PUBLIC_URL": "https://hooks.example.com/hooks"}, "", ""),
        ({"api_key": "k"}, {"PUBLIC_URL": "https://hooks.example.com:8443/hooks"}, "", ""),
        ({"api_key": "k"}, {"PUBLIC_URL": "http://hooks.example.com/hooks"}, "", ""),
    ],
)
def test_warnings_name_the_fix(
    tmp_path: Path, source: dict[str, Any], environ: dict[str, str], begin: str, todo: str
) -> None:
    config = Config.model_validate({"sources": {"skyvern": {"secrets": ["s"], **source}}})

    found = warnings(settings(tmp_path, **environ), config)

    assert len(found) == bool(begin)
    assert all(text.startswith(begin) and f". {todo}" in text for text in found)
