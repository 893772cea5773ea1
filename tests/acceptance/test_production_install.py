"""A production install: what requirements.lock has, by its hashes, and the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.dev import Dev, a_run
from tests.support.paths import ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

# Megabytes of the whole environment, with pip and compiled modules.
MAXIMUM_SIZE = 290


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("production")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    venv.create(folder / "venv", with_pip=True)
    pip = [folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "-r", ROOT / "requirements.lock"], check=True)
    subprocess.run([*pip, "--no-deps", *folder.glob("*.whl")], check=True)
    return folder / "venv"


def test_lock_has_all_that_the_wheel_requires(environment: Path) -> None:
    subprocess.run([environment / "bin/pip", "check"], check=True)


def test_production_install_is_small(environment: Path) -> None:
    files = [Path(folder) / name for folder, _, names in os.walk(environment) for name in names]
    blocks = sum(path.lstat().st_blocks for path in files)

    assert blocks * 512 < MAXIMUM_SIZE << 20


def test_production_install_delivers_a_webhook(environment: Path, start_dev: Callable[..., Dev]) -> None:
    dev = start_dev(python=str(environment / "bin/python"), PYTHONPATH="").ready()
    dev.post(a_run(1))

    eventually(lambda: list((dev.data / "archive").rglob("run.json")), what=lambda: dev.log)
