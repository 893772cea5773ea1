"""docs/how-to/writing-a-sink.md, done as it says: its files are installed, and the conformance suite is green."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "how-to" / "writing-a-sink.md"

Run = Callable[..., subprocess.CompletedProcess[str]]


def blocks(language: str) -> list[str]:
    """The page's code blocks in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def build_wheel(folder: Path) -> Path:
    """What `pip wheel` would make of the page's files; made by hand, for a build backend would have to be fetched."""
    (toml,) = blocks("toml")
    project = tomllib.loads(toml)
    name = project["project"]["name"].replace("-", "_")
    version = project["project"]["version"]
    (module,) = project["tool"]["setuptools"]["py-modules"]
    points = project["project"]["entry-points"]["runhook.sinks"]
    info = f"{name}-{version}.dist-info"
    files = {
        f"{module}.py": blocks("python")[0],
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[runhook.sinks]\n"
        + "".join(f"{key} = {value}\n" for key, value in points.items()),
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python in an environment where the page's package is installed."""
    folder = tmp_path_factory.mktemp("third-party")
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-cache-dir"]
    subprocess.run([*pip, "--target", str(site), str(build_wheel(folder))], check=True, timeout=60)
    (folder / "test_tickets.py").write_text(blocks("python")[1])
    (folder / "runhook.yaml").write_text(blocks("yaml")[0])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "RUNHOOK"))}
    environment |= {
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SKYVERN_API_KEY": "sk",
        "TRACKER_TOKEN": "token-5e1f",
    }

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)

    return call


@pytest.mark.long
def test_the_suite_is_green_for_the_sink_of_the_page(run: Run) -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error", "test_tickets.py")
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 30, "the suite was not run as a whole"
    assert "failed" not in done.stdout
    assert "skipped" not in done.stdout


def test_the_config_knows_the_sink_and_its_options(run: Run) -> None:
    done = run("-m", "receiver.cli", "check", "runhook.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    config = Path(run("-c", "import os; print(os.getcwd())").stdout.strip(), "runhook.yaml")
    good = config.read_text()
    config.write_text(good.replace("token:", "tokn:"))
    try:
        done = run("-m", "receiver.cli", "check", "runhook.yaml")
    finally:
        config.write_text(good)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, said
    assert "sinks.helpdesk.tokn: unknown key; did you mean token?" in said
    assert "token-5e1f" not in said
