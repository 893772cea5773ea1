"""compose.yaml, Dockerfile and deploy/make-secrets, as schemas, linters and commands see them.

tests/acceptance runs the services of compose.yaml and the steps of the Dockerfile.
"""

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from receiver.config.settings import Settings
from receiver.web.server import LEAVE_WITHIN, STOP_TIMEOUT
from tests.support.command import call_command
from tests.support.deploy_files import context, default, stages, variables
from tests.support.paths import ROOT
from tests.support.processes import Terminal

COMPOSE = ROOT / "compose.yaml"
SKYVERN = ROOT / "deploy" / "compose.skyvern.yaml"
FILE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
OVERLAY: dict[str, Any] = yaml.safe_load(SKYVERN.read_text())
OURS = ("runhook", "runhook-worker", "runhook-clock")
SETTINGS = {each.validation_alias for each in Settings.model_fields.values()}
# Read by the sources and sinks of the config, not by Runhook itself, and by the entrypoint of the image.
OTHERS = {"SKYVERN_API_KEY", "RESULTS_DATABASE_URL", "SKYVERN_CREDENTIALS_FILE"}
BUILD, FINAL = stages()


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "check_jsonschema", "--quiet", "--builtin-schema", "vendor.compose-spec", COMPOSE],
        [sys.executable, "-m", "check_jsonschema", "--quiet", "--builtin-schema", "vendor.compose-spec", SKYVERN],
        [Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"],
    ],
    ids=["compose.yaml", "compose.skyvern.yaml", "Dockerfile"],
)
def test_linter_or_schema_accepts_the_file(command: list[Any]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


def test_only_the_receiver_is_reached_from_outside() -> None:
    ports = {name: service["ports"] for name, service in FILE["services"].items() if "ports" in service}

    assert ports == {"runhook": ["127.0.0.1:${RUNHOOK_PORT:-8000}:8000"]}
    assert FILE["networks"]["runhook-private"] == {"internal": True}
    for name in ("runhook-valkey", "runhook-postgres"):
        assert FILE["services"][name]["networks"] == ["runhook-private"]


@pytest.mark.parametrize("name", OURS)
def test_service_is_hardened_and_its_variables_are_settings(name: str) -> None:
    service = FILE["services"][name]

    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service  # the image has one
    names = {*service["environment"], *OVERLAY["services"][name]["environment"]}
    names = {re.sub(r"(?<!CREDENTIALS)_FILE$", "", each) for each in names}
    assert names | {secret.upper() for secret in service["secrets"]} <= SETTINGS | OTHERS


def test_containers_have_time_to_stop() -> None:
    grace = {name: float(FILE["services"][name]["stop_grace_period"].removesuffix("s")) for name in OURS}

    assert grace["runhook"] > STOP_TIMEOUT + LEAVE_WITHIN
    assert grace["runhook-worker"] > default("worker", "stop_timeout")


def test_config_of_the_image_is_valid(tmp_path: Path) -> None:
    environ = {"SKYVERN_API_KEY": "a-key", "RUNHOOK_DATA": str(tmp_path), "PUBLIC_URL": "https://hooks.example.com"}

    checked = call_command("check", str(ROOT / "deploy" / "runhook.yaml"), environ=environ, directory=tmp_path)

    assert checked.returncode == 0
    assert "warning" not in checked.stdout + checked.stderr


def test_mounts_lead_to_where_the_programs_read() -> None:
    service, ours = FILE["services"]["runhook"], OVERLAY["services"]["runhook"]
    environment = variables(FINAL)
    _, credentials, mode = ours["volumes"][0].split(":")

    assert service["volumes"] == [f"runhook-data:{environment['RUNHOOK_DATA']}"]
    assert service["configs"][0]["target"] == environment["RUNHOOK_CONFIG"]
    assert (Path(ours["environment"]["SKYVERN_CREDENTIALS_FILE"]).parent, mode) == (Path(credentials), "ro")
    assert Path(ours["environment"]["SKYVERN_API_KEY_FILE"]).parent == Path(service["tmpfs"][0])
    assert (
        urlsplit(ours["environment"]["PUBLIC_URL"]).hostname
        in OVERLAY["services"]["skyvern"]["environment"]["ALLOWED_HOSTS"]
    )


def test_each_install_takes_locked_files_only() -> None:
    runs = [run.strip() for name, text in BUILD if name == "RUN" for run in text.split("&&")]
    installs = [run for run in runs if re.search(r"-m pip .*install", run)]

    assert variables(BUILD)["PIP_ONLY_BINARY"] == ":all:"
    assert installs
    assert all("--require-hashes" in run or run.endswith("--no-deps dist/*.whl") for run in installs)
    assert [run for run in runs if re.search(r"apt-get|curl|wget", run)] == []


def test_build_context_has_what_is_copied_and_no_secret() -> None:
    files = {str(path) for path in context()}
    copied = [text for stage in (BUILD, FINAL) for name, text in stage if name == "COPY" and "--from" not in text]
    packages = {path.parts[0] for path in map(Path, files) if path.name == "__init__.py"}
    wheel = (ROOT / "pyproject.toml").read_text().partition("[tool.hatch.build.targets.wheel]")[2].partition("[tool")[0]

    assert {word for text in copied for word in shlex.split(text)[:-1]} - {"."} <= files
    assert packages == set(re.findall(r'"(\w+)"', wheel))
    hidden = {".git", ".env", "secrets", "tests", "var", ".venv", "docs"}
    assert {path.parts[0] for path in context()} & hidden == set()


def test_default_command_and_healthcheck_are_in_the_image() -> None:
    single = {name: text for name, text in FINAL if name != "COPY"}
    copied = {each for name, text in FINAL if name == "COPY" for each in shlex.split(text)}

    assert (single["ENTRYPOINT"], single["CMD"], single["EXPOSE"]) == ('["entrypoint"]', '["serve"]', "8000")
    assert single["HEALTHCHECK"].endswith('CMD ["healthcheck"]')
    for name in ("entrypoint", "healthcheck"):
        assert f"deploy/{name}" in copied
        assert (ROOT / "deploy" / name).stat().st_mode & 0o111 == 0o111


# --- deploy/make-secrets


def make_secrets(folder: Path, key: str = "") -> str:
    command = ["sh", ROOT / "deploy" / "make-secrets", folder]
    done = subprocess.run(command, input=key, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_secrets_are_complete_private_and_never_printed(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    printed = make_secrets(folder, "a-key\n")

    made = contents(folder)
    assert made.keys() == FILE["secrets"].keys()
    assert made["skyvern_api_key"] == "a-key"
    assert urlsplit(made["database_url"]).password == made["postgres_password"]
    assert urlsplit(made["results_database_url"]).password == made["postgres_password"]
    assert len({made[name] for name in ("postgres_password", "runhook_secret", "runhook_console_password")}) == 3
    assert len(made["runhook_secret"]) == 48
    assert [value for value in made.values() if value in printed] == []
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}  # containers read them


def test_secrets_that_exist_are_kept(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    before = contents(tmp_path / "secrets")
    assert before["skyvern_api_key"] == ""

    make_secrets(tmp_path / "secrets", "another\n")

    assert contents(tmp_path / "secrets") == before


def test_terminal_echoes_again_after_ctrl_c(tmp_path: Path) -> None:
    command = f"trap : INT; {ROOT}/deploy/make-secrets {tmp_path / 'secrets'}; echo ended; stty -a"
    with Terminal(["/bin/sh", "-c", command], env={"PATH": os.environ["PATH"]}, cwd=tmp_path) as terminal:
        terminal.answer("Skyvern API key: ", "\x03", hidden=True)
        assert terminal.end() == 0
    assert " echo " in terminal.shown.split("ended")[1]
