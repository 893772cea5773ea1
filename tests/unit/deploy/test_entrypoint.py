"""deploy/entrypoint: it runs a command, and waits for the API key that Skyvern's own server writes."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.waiting import PATIENCE, eventually

# Characters that a shell, sed or TOML could change. Keys of Skyvern are JWTs.
KEY = """eyJ$HOME.`id`%s&|\\n'"*-_= é"""

# Writes its arguments and the key that it can read, as `runhook` would, into the file OUTPUT.
RUNHOOK = """#!/bin/sh
printf '%s\\n' "$@" >"$OUTPUT.arguments"
[ -z "${SKYVERN_API_KEY_FILE:-}" ] || cp -p "$SKYVERN_API_KEY_FILE" "$OUTPUT.key"
"""


# Notes each wait, and makes it short.
SLEEP = """#!/bin/sh
echo >>"$OUTPUT.waits"
exec /bin/sleep 0.02
"""


class Container:
    """The entrypoint as a process, with a stand-in for `runhook` on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.credentials = folder / "credentials.toml"
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "bin").mkdir()
        for name, program in (("runhook", RUNHOOK), ("sleep", SLEEP)):
            (folder / "bin" / name).write_text(program)
            (folder / "bin" / name).chmod(0o755)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "OUTPUT": str(self.folder / "output"),
            **variables,
        }
        command = ["sh", str(ROOT / "deploy" / "entrypoint"), *arguments]
        self.process = launch(command, self.folder / "log", env=environment)
        return self.process

    def start_waiting(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start with the credentials file of a Skyvern server."""
        key_file = str(self.folder / "key")
        return self.start(*arguments, SKYVERN_CREDENTIALS_FILE=str(self.credentials), SKYVERN_API_KEY_FILE=key_file)

    def write_credentials(self, key: str) -> None:
        """Write the file as Skyvern does: TOML, whose basic strings are JSON's."""
        orgs = f'[{{name="Skyvern", cred={json.dumps(key)}}}]'
        self.credentials.write_text(f'[skyvern]\nconfigs = [\n    {{"env" = "local", "orgs" = {orgs}}}\n]\n')

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def arguments(self) -> list[str]:
        return (self.folder / "output.arguments").read_text().splitlines()

    @property
    def key(self) -> str:
        return (self.folder / "output.key").read_text()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    made = Container(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        (["worker"], ["worker"]),
        (["clock", "--config", "a b.yaml"], ["clock", "--config", "a b.yaml"]),
        (["serve"], ["serve", "--host", "0.0.0.0"]),
        (["serve", "--host", "::", "--port", "80"], ["serve", "--host", "0.0.0.0", "--host", "::", "--port", "80"]),
        (["dev"], ["dev", "--host", "0.0.0.0"]),
    ],
)
def test_it_runs_the_command_and_waits_for_nothing(
    container: Container, given: list[str], arguments: list[str]
) -> None:
    assert container.start(*given).wait(PATIENCE) == 0
    assert container.arguments == arguments
    assert container.log == ""


def test_it_waits_until_skyvern_has_written_its_key(container: Container) -> None:
    # Given a container that starts before Skyvern has written anything
    process = container.start_waiting("serve")
    eventually(lambda: "No such file" in container.log)
    # When the file appears, at first without its end
    container.credentials.write_text("[skyvern]\nconfigs = [")
    eventually(lambda: "no API key yet" in container.log)
    assert process.poll() is None
    container.write_credentials(KEY)
    # Then the command starts with the key, byte for byte
    assert process.wait(PATIENCE) == 0
    assert container.key == KEY
    assert container.arguments[0] == "serve"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_the_wait(container: Container, number: signal.Signals, code: int) -> None:
    process = container.start_waiting("serve")
    eventually(lambda: "waiting" in container.log)

    process.send_signal(number)

    assert process.wait(PATIENCE) == code
    assert not (container.folder / "output.arguments").exists()


def test_key_is_not_printed_and_private_to_its_user(container: Container) -> None:
    container.write_credentials(KEY)

    assert container.start_waiting("worker").wait(PATIENCE) == 0
    assert container.key == KEY
    assert container.log == ""
    assert (container.folder / "key").stat().st_mode & 0o077 == 0
