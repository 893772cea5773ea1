"""Dockerfile and .dockerignore: by the rules of hadolint, from the locks, and without what is no one's business."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.dockerfile import context, stages, variables
from tests.support.paths import ROOT

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
