"""compose.yaml and deploy/compose.skyvern.yaml: valid, complete, and open to 127.0.0.1 only."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from receiver.config.settings import Settings
from receiver.web.server import LEAVE_WITHIN, STOP_TIMEOUT
from tests.support.command import call_command
from tests.support.commands import default
from tests.support.paths import ROOT

COMPOSE = ROOT / "compose.yaml"
SKYVERN = ROOT / "deploy" / "compose.skyvern.yaml"
FILE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
OVERLAY: dict[str, Any] = yaml.safe_load(SKYVERN.read_text())
OURS = ("runhook", "runhook-worker", "runhook-clock")
SETTINGS = {each.validation_alias for each in Settings.model_fields.values()}
# Read by the sources of the config, not by Runhook itself, and by the entrypoint of the image.
OTHERS = {"SKYVERN_API_KEY", "SKYVERN_CREDENTIALS_FILE"}


@pytest.mark.parametrize("path", [COMPOSE, SKYVERN], ids=lambda path: path.name)
def test_file_follows_the_compose_specification(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_only_the_receiver_publishes_a_port() -> None:
    ports = {name: service["ports"] for name, service in FILE["services"].items() if "ports" in service}

    assert ports == {"runhook": ["127.0.0.1:${RUNHOOK_PORT:-8000}:8000"]}


def test_servers_are_on_an_internal_network_only() -> None:
    assert FILE["networks"]["runhook-private"] == {"internal": True}
    for name in ("runhook-valkey", "runhook-postgres"):
        assert FILE["services"][name]["networks"] == ["runhook-private"]


def test_secrets_are_declared_and_named_like_variables() -> None:
    services = FILE["services"]

    assert {name for service in services.values() for name in service.get("secrets", ())} == FILE["secrets"].keys()
    for name in OURS:
        assert {secret.upper() for secret in services[name]["secrets"]} <= SETTINGS | OTHERS
    assert services["runhook-postgres"]["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/postgres_password"


def test_variables_are_settings_of_runhook() -> None:
    for service in (*(FILE["services"][name] for name in OURS), *(OVERLAY["services"][name] for name in OURS)):
        names = {re.sub(r"(?<!CREDENTIALS)_FILE$", "", name) for name in service["environment"]}
        assert names <= SETTINGS | OTHERS


def test_containers_have_time_to_stop() -> None:
    grace = {name: float(FILE["services"][name]["stop_grace_period"].removesuffix("s")) for name in OURS}

    assert grace["runhook"] > STOP_TIMEOUT + LEAVE_WITHIN
    assert grace["runhook-worker"] > default("worker", "stop_timeout")


def test_containers_of_runhook_are_hardened() -> None:
    for name in OURS:
        service = FILE["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in service  # the image has one


def test_config_of_the_image_is_valid(tmp_path: Path) -> None:
    environ = {"SKYVERN_API_KEY": "a-key", "RUNHOOK_DATA": str(tmp_path), "PUBLIC_URL": "https://hooks.example.com"}

    checked = call_command("check", str(ROOT / "deploy" / "runhook.yaml"), environ=environ, directory=tmp_path)

    assert checked.returncode == 0
    assert "warning" not in checked.stdout + checked.stderr


def test_overlay_mounts_the_credentials_file_read_only() -> None:
    ours = OVERLAY["services"]["runhook"]
    _, target, mode = ours["volumes"][0].split(":")

    assert mode == "ro"
    assert Path(ours["environment"]["SKYVERN_CREDENTIALS_FILE"]).parent == Path(target)
    assert Path(ours["environment"]["SKYVERN_API_KEY_FILE"]).parent == Path("/tmp")  # writable
    assert FILE["services"]["runhook"]["tmpfs"] == ["/tmp"]
