"""Skyvern's official SDKs, each installed on demand in a folder of its own under .cache.

sdk_python       the Python that has the Python SDK: it pins older versions of what we use
sdk_typescript   a folder in which node finds the TypeScript SDK; without node, npm or the package the test is skipped
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT

VERSION = "1.0.56"
TYPESCRIPT = "@skyvern/client"
CACHE = ROOT / ".cache"


def _installed(home: Path, install: Callable[[], None]) -> None:
    """Call `install` unless that was done before. Several test processes may ask at once: one does it."""
    done = home / ".installed"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            install()
            done.touch()


def install_once(home: Path, package: str) -> None:
    """Install a package of npm in the folder `home`, once. Skips the test, with npm's reason, where that fails."""

    def install() -> None:
        home.mkdir(exist_ok=True)
        (home / "package.json").write_text('{"private": true}')  # else npm looks for a project in the folders above
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", package]
        ended = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300)
        if ended.returncode:
            said = next((line for line in ended.stderr.splitlines() if "404" in line), ended.stderr.strip()[-200:])
            pytest.skip(f"npm can't install {package}: {said}")

    _installed(home, install)


@pytest.fixture(scope="session")
def sdk_python() -> Path:
    home = CACHE / f"skyvern-{VERSION}"
    python = home / "bin" / "python"

    def install() -> None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--no-compile", f"skyvern=={VERSION}"], check=True, timeout=600)

    _installed(home, install)
    return python


@pytest.fixture(scope="session")
def sdk_typescript() -> Path:
    if missing := [name for name in ("node", "npm") if not shutil.which(name)]:
        pytest.skip(f"the TypeScript SDK needs {' and '.join(missing)}")
    home = CACHE / "skyvern-typescript"
    install_once(home, TYPESCRIPT)
    return home
