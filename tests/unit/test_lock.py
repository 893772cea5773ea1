"""The locks: requirements.lock is a production install, requirements-build.lock builds the wheel, requirements-dev.lock
is what `make install` installs."""

import re
import tomllib
from itertools import chain

import pytest
from packaging.requirements import Requirement

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [*PROJECT["project"]["dependencies"], *chain(*PROJECT["project"]["optional-dependencies"].values())]
TOOLS = [*chain(*PROJECT["dependency-groups"].values()), *PROJECT["build-system"]["requires"]]
LISTED = {
    "requirements.lock": RUNTIME,
    "requirements-build.lock": PROJECT["build-system"]["requires"],
    "requirements-dev.lock": [*RUNTIME, *TOOLS],
}
PINNED = re.compile(r"[\w.\-]+(\[[\w,\-]+\])?==[\w.+!]+( ; [^\\]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")

locks = pytest.mark.parametrize("lock", LISTED)


def lines(lock: str) -> list[str]:
    """The requirements of a lock, each on one line with its hashes."""
    text = re.sub(r"\\\n", " ", (ROOT / lock).read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def name_of(requirement: Requirement) -> str:
    return re.sub(r"[-_.]+", "-", requirement.name).lower()


def locked(lock: str) -> dict[str, Requirement]:
    parsed = [Requirement(line.partition("--hash")[0].strip()) for line in lines(lock)]
    return {name_of(requirement): requirement for requirement in parsed}


@locks
def test_lock_fixes_each_version_with_hashes(lock: str) -> None:
    assert len(lines(lock)) > len(LISTED[lock])
    assert [line for line in lines(lock) if not PINNED.fullmatch(line)] == []


@locks
def test_lock_names_no_package_index(lock: str) -> None:
    assert "://" not in "".join(lines(lock))
    assert not any(line.startswith("-") for line in lines(lock))


@locks
def test_lock_satisfies_pyproject(lock: str) -> None:
    versions = locked(lock)
    for text in LISTED[lock]:
        requirement = Requirement(text)
        (version,) = versions[name_of(requirement)].specifier
        assert requirement.specifier.contains(version.version), text


def test_make_install_accepts_only_locked_files() -> None:
    installs = [line for line in (ROOT / "scripts" / "install").read_text().splitlines() if line.startswith("pip ")]
    locks, project = installs[:-1], installs[-1]

    assert [line.split()[-1] for line in locks] == ["requirements.lock", "requirements-dev.lock"]
    assert all("--require-hashes" in line and "--only-binary :all:" in line for line in locks)
    assert "--no-deps" in project
    assert "--no-build-isolation" in project


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-build.lock"])
def test_all_locks_have_the_same_versions(lock: str) -> None:
    development = {name: str(requirement) for name, requirement in locked("requirements-dev.lock").items()}
    other = {name: str(requirement) for name, requirement in locked(lock).items()}

    assert other.items() <= development.items()


def test_production_lock_has_no_test_or_build_tools() -> None:
    tools = {name_of(Requirement(text)) for text in TOOLS} - {"cryptography"}

    assert tools & locked("requirements.lock").keys() == set()
