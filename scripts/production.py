"""Make the environment of a production host: as the lock has it, and without what no running Runhook needs.

    python3 scripts/production.py VENV [--extra mcp|notify|oidc]...

It has neither pip nor compiled modules (each is compiled at its first import where the folder may be written to), nor
botocore's descriptions of services that no sink uses. Needs Python 3.11 or newer and a package index.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
# What the sinks `s3` and `queue` call, and what credentials may have to be fetched from (roles, SSO, `aws login`).
AWS_SERVICES: Final = frozenset({"s3", "signin", "sns", "sqs", "sso", "sso-oidc", "sts"})


def entries(lock: str) -> dict[str, str]:
    """Return the entries of a lock with their hashes, by the normalized name of the package."""
    found = re.finditer(r"^([\w.-]+)==.*(?:\n[ \t].*)*", lock, re.MULTILINE)
    return {normalized(each[1]): each[0] for each in found}


def normalized(name: str) -> str:
    """Return a package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def remove_unused_services(data: Path, used: Collection[str] = AWS_SERVICES) -> None:
    """Delete the descriptions of all services but `used` from the folder `data` of botocore. Its other files stay.

    Raises SystemExit when one of `used` is not there: botocore calls it otherwise now.
    """
    there = {path.name: path for path in data.iterdir() if path.is_dir()}
    if missing := set(used) - set(there):
        raise SystemExit(f"botocore has no description of {', '.join(sorted(missing))}")
    for name, path in there.items():
        if name not in used:
            shutil.rmtree(path)


class Pip:
    """The pip of one environment, which installs into any, and nothing that `lock` has no hash of."""

    def __init__(self, python: Path, lock: Mapping[str, str], folder: Path) -> None:
        self._command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        self._lock = lock
        self._versions = folder / "versions.txt"
        self._versions.write_text("\n".join(text.splitlines()[0].removesuffix(" \\") for text in lock.values()))
        self._wanted = folder / "wanted.txt"

    def install(self, into: Path, requirements: Sequence[str]) -> None:
        """Install `requirements`, and all that they need, into the environment of the Python `into`."""
        report = self._run(
            into, "--dry-run", "--ignore-installed", "--report", "-", "--constraint", self._versions, *requirements
        )
        names = [normalized(each["metadata"]["name"]) for each in json.loads(report)["install"]]
        self._wanted.write_text("".join(f"{self._lock[name]}\n" for name in names))
        self._run(into, "--no-deps", "--require-hashes", "--requirement", self._wanted)

    def install_project(self, into: Path, wheels: Path) -> None:
        """Build Runhook with what stands in this pip's environment, and install it."""
        build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ROOT]
        subprocess.run([*self._command, *build], check=True)
        self._run(into, "--no-deps", *wheels.glob("*.whl"))

    def _run(self, into: Path, *options: str | Path) -> bytes:
        install = ["--python", into, "install", "--no-compile", "--only-binary", ":all:"]
        return subprocess.run([*self._command, *install, *options], check=True, stdout=subprocess.PIPE).stdout


def main() -> None:
    """Make the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("venv", type=Path)
    parser.add_argument("--extra", action="append", default=[])
    options = parser.parse_args()
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = config["project"]
    wanted = [
        *project["dependencies"],
        *(each for name in options.extra for each in project["optional-dependencies"][name]),
    ]
    lock = entries((ROOT / "requirements.lock").read_text())
    venv.create(options.venv, clear=True, symlinks=True)
    python = options.venv.absolute() / "bin" / "python"
    with tempfile.TemporaryDirectory(prefix="runhook-install-") as name:
        folder = Path(name)
        venv.create(folder / "tools", with_pip=True, symlinks=True)
        tools = folder / "tools" / "bin" / "python"
        pip = Pip(tools, lock, folder)
        pip.install(tools, config["dependency-groups"]["build"])
        pip.install(python, wanted)
        pip.install_project(python, folder / "wheels")
    (data,) = options.venv.glob("lib/python*/site-packages/botocore/data")
    remove_unused_services(data)
    sys.stdout.write(f"made {options.venv}: {options.venv / 'bin' / 'runhook'}\n")


if __name__ == "__main__":
    main()
