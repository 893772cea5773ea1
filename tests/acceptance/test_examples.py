"""Run the examples of docs/how-to/submit.md, with only the base URL replaced, against a simulated Skyvern."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.skyvern import SkyvernSimulator
from tests.servers.submitting import Submitting
from tests.support.paths import ROOT

pytestmark = pytest.mark.long

BASE = "https://hooks.example.com"
WEBHOOK = "https://your-server.com/webhook"
PAGE = (ROOT / "docs" / "how-to" / "submit.md").read_text()
TASK = {"prompt": "Get the title of the top post", "url": "https://news.ycombinator.com"}
AGENT = {
    "workflow_id": "wpid_123456789",
    "parameters": {
        "resume": "https://example.com/resume.pdf",
        "job_url": "https://jobs.lever.co/company/position",
    },
}


def examples(language: str) -> tuple[str, str]:
    """The two examples of a language: a task, an agent."""
    found = [each for each in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if WEBHOOK in each]
    task, agent = found
    assert BASE in task
    assert BASE in agent
    return task, agent


def run(code: str, command: list[str], file: Path, rig: Submitting) -> str:
    """Run an example against `rig` and return what it printed."""
    file.write_text(code.replace(BASE, rig.url))
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    environ = {**kept, "HOME": str(file.parent), "RUNHOOK_KEY": rig.key("submit")}
    ended = subprocess.run(
        [*command, str(file)], capture_output=True, text=True, timeout=300, cwd=file.parent, env=environ
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout


def both(
    language: str,
    command: list[str],
    name: str,
    folder: Path,
    submitting: Callable[..., Submitting],
    simulator: SkyvernSimulator,
) -> None:
    """Run both examples of a language, and check what Skyvern and the ledger have of each."""
    for code, asked in zip(examples(language), (TASK, AGENT), strict=True):
        rig = submitting(simulator.url, dispatching=False)
        known = set(simulator.world.runs)

        printed = run(code, command, folder / name, rig)

        (run_id,) = simulator.world.runs.keys() - known
        assert run_id in printed
        made = simulator.run(run_id)
        given = {**made.request, "workflow_id": made.workflow_id}  # the Python SDK calls it agent_id
        assert {key: given.get(key) for key in asked} == asked
        (row,) = [each for each in rig.rows() if each["run_id"] == run_id]
        assert row["callback_url"] == WEBHOOK
        assert made.callback == f"{rig.url}/webhooks/skyvern/{row['id']}"


def test_curl(submitting: Callable[..., Submitting], skyvern_simulator: SkyvernSimulator, tmp_path: Path) -> None:
    both("bash", ["sh"], "example.sh", tmp_path, submitting, skyvern_simulator)


def test_python(
    sdk_python: Path, submitting: Callable[..., Submitting], skyvern_simulator: SkyvernSimulator, tmp_path: Path
) -> None:
    both("python", [str(sdk_python)], "example.py", tmp_path, submitting, skyvern_simulator)


@pytest.mark.longest  # some registries lack the package
def test_typescript(
    sdk_typescript: Path, submitting: Callable[..., Submitting], skyvern_simulator: SkyvernSimulator, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(sdk_typescript / "node_modules")
    both("typescript", ["node"], "example.mjs", tmp_path, submitting, skyvern_simulator)


@pytest.mark.parametrize("language", ["python", "typescript", "bash"])
def test_an_example_changes_nothing_but_base_url_and_key(language: str) -> None:
    for code in examples(language):
        assert "api.skyvern.com" not in code
        assert "RUNHOOK_KEY" in code
