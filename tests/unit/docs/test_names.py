"""Names that pages use are right: keys of the config, variables, metrics, files of the repository, packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from receiver.config.models import Config
from tests.support.paths import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
# Names that begin like keys: files, and two events of the log.
NO_KEYS = {"submit.py", "ledger.db", "ledger.cancelled", "inbox.dropped"}
SOURCES = (
    "\n".join(
        path.read_text()
        for folder in ("receiver", "handlers", "simulator", "scripts", "config", "tests/browser", "bench", "deploy")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yaml"}
    )
    + (ROOT / "compose.yaml").read_text()
)


def models_in(annotation: Any) -> list[Any]:
    """The models that a value of this type holds."""
    found = [annotation] if hasattr(annotation, "model_fields") else []
    return found + [model for each in get_args(annotation) for model in models_in(each)]


def is_key(path: str) -> bool:
    """Whether `path` leads through the config's models; a name of somebody's own stands where a mapping is."""
    models: list[Any] = [Config]
    for part in path.split("."):
        if part in {"NAME", "<name>", "skyvern"}:
            continue
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if not fields:
            return False
        models = [model for field in fields for model in models_in(field.annotation)] or models
    return True


@by_page
def test_each_key_of_the_config_is_one(page: Path) -> None:
    named = set(re.findall(r"`((?:[a-z_]+)(?:\.(?:[a-z_]+|NAME|<name>))+)(?::[^`]*)?`", page.read_text()))
    keys = {name for name in named if name.partition(".")[0] in Config.model_fields} - NO_KEYS

    assert {name for name in keys if not is_key(name)} == set()


@by_page
def test_each_variable_is_one(page: Path) -> None:
    named = set(re.findall(r"\b((?:RUNHOOK|SKYVERN)_[A-Z_]+)\b", page.read_text()))

    assert {name for name in named if not re.search(rf"\b{name.removesuffix('_FILE')}\b", SOURCES)} == set()


@by_page
def test_each_metric_is_on_the_page_of_metrics(page: Path) -> None:
    known = set(
        re.findall(r"^\| `(runhook_\w+)`", (ROOT / "docs" / "reference" / "metrics.md").read_text(), re.MULTILINE)
    )
    named = set(
        re.findall(r"`(runhook_\w+_(?:total|seconds|bytes|up|alive|events|requests|cancelled))\b", page.read_text())
    )

    assert named - known == set()


@by_page
def test_each_file_of_the_repository_is_there(page: Path) -> None:
    folders = "receiver|handlers|simulator|tests|bench|scripts|config|deploy|docs"
    named = re.findall(rf"`((?:{folders})/[\w/.-]*(?:\.\w+|/))`", page.read_text())

    assert [name for name in named if not (ROOT / name).exists()] == []


def test_each_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]
    wanted = [
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
        *project["dependency-groups"]["docs"],
        *(each for group in optional.values() for each in group),
    ]
    names = {re.split(r"[<>=;\[ ]", each)[0] for each in wanted}
    page = (ROOT / "docs" / "dependencies.md").read_text()

    assert {name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", page)} == set()
