"""deploy/make-secrets: it makes what compose.yaml mounts, once, and nobody else can read it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from tests.support.paths import ROOT
from tests.support.terminal import Terminal


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
