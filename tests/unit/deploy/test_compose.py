"""compose.yaml, Dockerfile and deploy/make-secrets: valid, complete, and open to 127.0.0.1 only."""

import json
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
from tests.support.commands import default, parse
from tests.support.dockerfile import context, stages, variables
from tests.support.paths import ROOT
from tests.support.terminal import Terminal

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


BUILD, FINAL = stages()


def values(name: str) -> list[str]:
    return [text for instruction, text in FINAL if instruction == name]


def test_hadolint_has_no_complaint() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


def test_each_install_takes_locked_files_only() -> None:
    runs = [run.strip() for name, text in BUILD if name == "RUN" for run in text.split("&&")]
    installs = [run for run in runs if re.search(r"-m pip .*install", run)]

    assert variables(BUILD)["PIP_ONLY_BINARY"] == ":all:"
    assert len(installs) == 3
    assert all("--require-hashes" in run or run.endswith("--no-deps dist/*.whl") for run in installs)
    assert [run for run in runs if re.search(r"apt-get|curl|wget", run)] == []


def test_image_runs_as_a_fixed_user_that_is_not_root() -> None:
    assert values("USER") == ["10001:10001"]
    assert [text for text in values("RUN") if "--uid 10001" in text and "--gid 10001" in text]


def test_build_context_has_all_that_is_copied() -> None:
    files = {str(path) for path in context()}
    copied = [word for text in values("COPY") if "--from" not in text for word in shlex.split(text)[:-1]]
    copied += [word for name, text in BUILD if name == "COPY" for word in shlex.split(text)[:-1] if word != "."]

    assert set(copied) <= files
    packages = {path.parts[0] for path in map(Path, files) if path.name == "__init__.py"}
    wheel = (ROOT / "pyproject.toml").read_text().partition("[tool.hatch.build.targets.wheel]")[2].partition("[tool")[0]
    assert packages == set(re.findall(r'"(\w+)"', wheel))


def test_build_context_has_no_secret_and_no_test() -> None:
    folders = {path.parts[0] for path in context()}

    assert folders & {".git", ".env", "secrets", "tests", "var", ".venv", "docs"} == set()


def test_compose_mounts_where_the_image_reads() -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["runhook"]
    environment = variables(FINAL)

    assert service["volumes"] == [f"runhook-data:{environment['RUNHOOK_DATA']}"]
    assert service["configs"][0]["target"] == environment["RUNHOOK_CONFIG"]


def make_secrets(folder: Path, key: str = "") -> str:
    command = ["sh", ROOT / "deploy" / "make-secrets", folder]
    done = subprocess.run(command, input=key, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_it_makes_every_secret_of_compose(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets", "a-key\n")

    declared = yaml.safe_load((ROOT / "compose.yaml").read_text())["secrets"]
    made = contents(tmp_path / "secrets")
    assert made.keys() == declared.keys()
    assert made["skyvern_api_key"] == "a-key"
    assert urlsplit(made["database_url"]).password == made["postgres_password"]
    assert len({made[name] for name in ("postgres_password", "runhook_secret", "runhook_console_password")}) == 3
    assert len(made["runhook_secret"]) == 48


def test_it_prints_no_secret(tmp_path: Path) -> None:
    printed = make_secrets(tmp_path / "secrets", "a-key\n")

    assert [value for value in contents(tmp_path / "secrets").values() if value in printed] == []


def test_it_keeps_secrets_that_exist(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets", "a-key\n")
    before = contents(tmp_path / "secrets")

    make_secrets(tmp_path / "secrets", "another\n")

    assert contents(tmp_path / "secrets") == before


def test_key_may_be_left_out(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")

    assert contents(tmp_path / "secrets")["skyvern_api_key"] == ""


def test_folder_is_private_and_containers_can_read_files(tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets", "a-key\n")

    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "secrets").iterdir()} == {0o644}


def test_terminal_echoes_again_after_ctrl_c(tmp_path: Path) -> None:
    command = f"trap : INT; {ROOT}/deploy/make-secrets {tmp_path / 'secrets'}; echo ended; stty -a"
    with Terminal(["/bin/sh", "-c", command], env={"PATH": os.environ["PATH"]}, cwd=tmp_path) as terminal:
        terminal.answer("Skyvern API key: ", "\x03", hidden=True)
        assert terminal.end() == 0
    assert " echo " in terminal.shown.split("ended")[1]


def test_skyvern_may_post_to_the_public_url() -> None:
    ours = OVERLAY["services"]["runhook"]["environment"]
    allowed = OVERLAY["services"]["skyvern"]["environment"]["ALLOWED_HOSTS"]

    assert ours["PUBLIC_URL"] == "http://runhook:8000"
    assert allowed == '${ALLOWED_HOSTS:-["runhook"]}'


def test_image_has_one_volume_its_data_folder() -> None:
    environment = variables(FINAL)

    assert values("VOLUME") == [environment["RUNHOOK_DATA"]] == ["/var/lib/runhook"]
    assert environment["RUNHOOK_CONFIG"] == "/etc/runhook/runhook.yaml"


def test_image_serves_on_the_exposed_port_by_default() -> None:
    (default,) = values("CMD")
    (entrypoint,) = values("ENTRYPOINT")

    assert json.loads(default) == ["serve"]
    assert json.loads(entrypoint) == ["entrypoint"]
    assert values("EXPOSE") == ["8000"]
    assert values("STOPSIGNAL") == ["SIGTERM"]
    parse(json.loads(default))


def test_healthcheck_is_a_program_of_the_image() -> None:
    (check,) = values("HEALTHCHECK")
    copied = [each for text in values("COPY") for each in shlex.split(text)]

    assert json.loads(check.partition("CMD ")[2]) == ["healthcheck"]
    assert {"deploy/entrypoint", "deploy/healthcheck", "/usr/local/bin/"} <= {*copied}
    for name in ("entrypoint", "healthcheck"):
        assert (ROOT / "deploy" / name).stat().st_mode & 0o111 == 0o111
