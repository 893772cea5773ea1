"""`runhook config show`: the config file in force, where each value comes from, and no secret."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.command import call_command

CONFIG = """\
x-later: ["${SPARE:-sekret-of-an-anchor}"]
sources: {skyvern: {secrets: ["${SKYVERN_API_KEY}"], api_key: "${SIGNER:-}"}}
sinks:
  ops: {type: slack, webhook_url: "${HOOK}"}
  archive: {type: files, path: "${FOLDER:-var/archive}"}
  crm: {type: http, url: "https://${HOST}/x", headers: {x-a: "${HEADER:-sekret}"}, timeout: "${SECONDS}"}
routes: [{name: "${ROUTE}", to: [ops, archive, crm]}]
"""
PLACES = {
    "REDIS_URL": "redis://u:sekret@h/0",
    "SKYVERN_API_KEY_FILE": "key",
    "RUNHOOK_SECRETS_DIR": "secrets",
    "ROUTE": "all",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runhook.yaml").write_text(CONFIG)
    Path("key").write_text("sekret-key")
    Path(".env").write_text("HOOK=https://hooks.slack.com/services/T0/B0/sekret\nSECONDS=9\n")
    Path("secrets").mkdir()
    Path("secrets", "host").write_text("crm.sekret.example")


def show(*options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return call_command("config", "show", *options, environ={**PLACES, **environ})


@pytest.mark.parametrize(
    ("name", "value", "origin"),
    [
        ("RUNHOOK_CONFIG", "runhook.yaml", "default"),
        ("RUNHOOK_DATA", "here", "option --data"),
        ("REDIS_URL", "redis://u:********@h/0", "environment"),
        ("SKYVERN_API_KEY", "********", "file key (SKYVERN_API_KEY_FILE, environment)"),
        ("PUBLIC_URL", None, "default"),
        ("SKYVERN_BASE_URL", "https://api.skyvern.com", "default"),
        ("RUNHOOK_KEY", None, "default"),
        ("HOOK", "set", ".env:1"),
        ("HOST", "set", "secrets directory: secrets/host"),
        ("FOLDER", "set", "default"),
        ("ROUTE", "set", "environment"),
        ("SIGNER", "set", "default"),
    ],
)
def test_each_variable_has_its_value_and_origin(name: str, value: str | None, origin: str) -> None:
    shown = json.loads(show("--json", "--data", "here").stdout)

    (row,) = [row for row in shown["variables"] if row["name"] == name]
    assert (row["value"], row["origin"]) == (value, origin)


def test_no_secret_is_shown() -> None:
    table, document = show().stdout, show("--json").stdout

    assert "sekret" not in table + document
    assert table.startswith("config: runhook.yaml (default)\n")


def test_why_a_config_file_is_in_force() -> None:
    Path("other.yaml").write_text(CONFIG)

    assert show("--config", "other.yaml").stdout.startswith("config: other.yaml (option --config)\n")
    Path("runhook.yaml").unlink()
    assert "default.yaml (ships with Runhook)\n" in show().stdout


def test_a_wrong_config_file_is_reported_after_the_variables() -> None:
    Path("runhook.yaml").write_text(CONFIG.replace("secrets:", "secret:"))

    done = show()

    assert done.returncode == 2
    assert "REDIS_URL" in done.stdout
    assert "runhook.yaml:2: sources.skyvern.secret: unknown key; did you mean secrets?" in done.stderr
