"""requirements.lock: each file that is installed is known by its hash, also those that build our own package."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = [
    line
    for line in re.sub(r"\\\n", " ", (ROOT / "requirements.lock").read_text()).splitlines()
    if line and not line.startswith("#")
]


def name_of(requirement: Requirement) -> str:
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


LOCKED = {name_of(found): found for line in LINES for found in [Requirement(line.partition("--hash")[0].strip())]}


PINNED = re.compile(r"[\w.\-]+(\[[\w,\-]+\])?==[\w.+!]+( ; [^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")


def test_each_version_is_fixed_and_has_the_hashes_of_its_files() -> None:
    assert len(LINES) > 50
    assert [line for line in LINES if not PINNED.fullmatch(line)] == []


def test_it_names_no_index() -> None:
    assert "://" not in "".join(LINES)
    assert not any(line.startswith("-") for line in LINES)


def test_all_that_the_project_asks_for_is_there_in_a_version_that_fits() -> None:
    groups = PROJECT["dependency-groups"]
    asked = [
        *PROJECT["project"]["dependencies"],
        *groups["dev"],
        *groups["build"],
        *PROJECT["build-system"]["requires"],
    ]
    for text in asked:
        wanted = Requirement(text)
        (version,) = LOCKED[name_of(wanted)].specifier
        assert wanted.specifier.contains(version.version), text


def test_it_is_installed_by_its_hashes_alone() -> None:
    commands = re.sub(r"\\\n", " ", (ROOT / "scripts" / "install").read_text()).splitlines()
    installs = [line for line in commands if "-m pip install" in line]
    assert [line for line in installs if "requirements.lock" in line and "--require-hashes" in line] == installs[:1]
    assert all("--no-deps" in line and "--no-build-isolation" in line for line in installs[1:])
