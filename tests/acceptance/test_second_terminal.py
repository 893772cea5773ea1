"""Commands in another terminal find what the `runhook dev` in the same folder uses, and nothing of one that is gone."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from receiver.config import dev_session
from tests.servers import warm_python
from tests.servers.dev import Dev
from tests.servers.skyvern import KEY, SkyvernSimulator
from tests.support.paths import ROOT
from tests.support.waiting import eventually

Start = Callable[..., Dev]
CONFIG = (ROOT / "config" / "runhook.yaml").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def start(tmp_path: Path, folder: Path) -> Iterator[Start]:
    """Start `runhook dev` in a folder that has neither its config nor its data."""
    started: list[Dev] = []

    def it(**environ: str) -> Dev:
        class InFolder(Dev):
            def options(self, directory: Path) -> list[str]:
                return ["--data", str(tmp_path / "d"), "--config", str(tmp_path / "c.yaml")]

        (tmp_path / "c.yaml").write_text(CONFIG)
        started.append(InFolder(folder, logs=tmp_path, **environ))
        started[-1].data = tmp_path / "d"
        (folder / "runhook.yaml").unlink()
        return started[-1].ready()

    yield it
    for dev in started:
        dev.end()


def run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command as another terminal does: in the folder, and without the first one's variables."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return warm_python.run(["-m", "receiver.cli", *arguments], env={**kept, **environ}, cwd=folder)


def runs(folder: Path, *arguments: str, **environ: str) -> list[str]:
    found = run(folder, "runs", "--json", *arguments, **environ)
    assert found.returncode == 0, found.stderr
    return [each["run_id"] for each in json.loads(found.stdout)]


def test_commands_find_what_dev_was_started_with(
    start: Start, folder: Path, tmp_path: Path, redis_url: str, skyvern_simulator: SkyvernSimulator
) -> None:
    # Given dev with a port, a data directory, a config, a ledger, a Redis and a key of its own terminal
    ledger = f"sqlite:///{tmp_path}/elsewhere.db"
    variables = {"DATABASE_URL": ledger, "REDIS_URL": redis_url, "SKYVERN_BASE_URL": skyvern_simulator.url}
    dev = start(**variables, SKYVERN_API_KEY=KEY)
    file = folder / dev_session.FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert KEY not in file.read_text()

    # When another terminal sends a sample
    sent = run(folder, "trigger", "--run-id", "tsk_1")

    # Then it is accepted, and the commands of that terminal see it
    assert sent.returncode == 0, sent.stdout + sent.stderr
    eventually(lambda: runs(folder) == ["tsk_1"])
    assert not (dev.data / "redis").exists()
    assert run(folder, "open", "tsk_1").stdout.startswith(f"http://127.0.0.1:{dev.port}/console/runs/tsk_1")
    status = run(folder, "status")
    assert f"{tmp_path}/elsewhere.db" in status.stdout

    # And Skyvern is asked for nothing with the key that is not its own
    before = len(skyvern_simulator.world.runs)
    refused = run(folder, "connect")
    assert refused.returncode == 2
    assert "SKYVERN_API_KEY is not set in this terminal" in refused.stderr
    assert "to try Runhook without an account" not in refused.stderr  # that runs already
    assert len(skyvern_simulator.world.runs) == before
    assert run(folder, "connect", SKYVERN_API_KEY=KEY).returncode == 0


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_used_of_a_dev_that_has_ended(start: Start, folder: Path, killed: bool) -> None:
    dev = start()
    if killed:
        dev.process.kill()
        dev.process.wait()
    else:
        dev.end()

    assert (folder / dev_session.FILE).exists() is killed
    eventually(lambda: "var/ledger.db" in run(folder, "runs").stderr)
    assert run(folder, "runs").returncode == 3


def test_commands_that_name_another_service_do_not_use_dev(start: Start, folder: Path, tmp_path: Path) -> None:
    start(DATABASE_URL=f"sqlite:///{tmp_path}/elsewhere.db")
    run(folder, "trigger", "--run-id", "tsk_1")
    eventually(lambda: runs(folder) == ["tsk_1"])

    other = run(folder, "runs", "--data", str(tmp_path / "other"))
    named = run(folder, "runs", DATABASE_URL=f"sqlite:///{tmp_path}/none.db")

    assert (other.returncode, named.returncode) == (3, 3)
    assert str(tmp_path / "other") in other.stderr
    assert str(tmp_path / "none.db") in named.stderr
    assert runs(folder, "--data", str(tmp_path / "d")) == ["tsk_1"]
