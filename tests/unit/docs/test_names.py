"""Names, commands, links and the navigation of pages lead to what exists."""

import functools
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from receiver import __version__
from receiver.cli.commands import COMMANDS, load
from receiver.config.models import Config
from scripts.reference import generated
from scripts.site import external_resources
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


OPTIONS = ("--version", "--help", "-h", "--install-completion", "--show-completion")
VARIABLES = r"(?:[A-Z_]+=\S* +)*"


def shown(page: Path) -> Iterator[str]:
    """Each command of a page: in code between words, or on a line of a block, which is fenced or indented."""
    fence = re.compile(r"^```.*?^```|^    .*?$", re.DOTALL | re.MULTILINE)
    text = page.read_text()
    for block in fence.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.match(rf"\s*(?:\$ |(?:web|worker|clock): )?{VARIABLES}(?:\S*/)?runhook (.*)", line):
                yield found[1]
    for code in re.findall(r"`([^`]+)`", fence.sub("", text)):
        if found := re.match(rf"{VARIABLES}runhook ([a-z-].*)", " ".join(code.split())):
            yield found[1]


@functools.cache
def command_of(name: str) -> Any:
    return load(name)


def problem(text: str) -> str | None:
    """What is wrong with a command's words, of which values may be made up."""
    words = shlex.split(re.split(r" [|#;>]|&&", text)[0].replace("[", " ").replace("]", " "))
    if not words or words[0].startswith("-"):
        return None if not words or words[0] in OPTIONS else f"no option {words[0]}"
    name, *words = words
    if name not in COMMANDS:
        return f"no command {name}"
    command = command_of(name)
    if subcommands := getattr(command, "commands", None):
        if not words:
            return None
        if words[0] not in subcommands:
            return f"{name} has no {words[0]}"
        command = subcommands[words.pop(0)]
    options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}
    used = {word.partition("=")[0] for word in words if re.match(r"-[a-z]$|--[a-z]", word)}
    return f"{command.name} has no {', '.join(sorted(used - options))}" if used - options else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_on_a_page_is_one_that_there_is(page: Path) -> None:
    wrong = {f"runhook {text}": found for text in shown(page) if (found := problem(text))}

    assert wrong == {}


def test_the_pages_name_each_command() -> None:
    named = {text.split()[0] for page in PAGES for text in shown(page)}

    assert set(COMMANDS) - named == set()


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
# Pages that `make docs` writes; git ignores them.
GENERATED = {ROOT / line for line in (ROOT / ".gitignore").read_text().split() if line.startswith("docs/")}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_each_decision_has_its_own_number() -> None:
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert numbers == sorted(set(numbers))
    assert [page.read_text().partition(".")[0] for page in DECISIONS] == [f"# {number}" for number in numbers]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if there in GENERATED:
            continue
        assert there.exists(), target
        outside = page.is_relative_to(ROOT / "docs") and not there.is_relative_to(ROOT / "docs")
        assert not outside, f"{target} is not on the site: write its path as code"
        assert not anchor or anchor in anchors(there), target


CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def pages_in(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from pages_in(target) if isinstance(target, list) else [target]


def test_navigation_has_each_page_once() -> None:
    committed = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    expected = committed | {f"reference/{name}" for name in generated()}

    assert Counter(pages_in(CONFIG["nav"])) == Counter(expected)


def test_resource_from_another_host_is_found() -> None:
    assert external_resources('<a href="https://a.example"><link href="assets/x.css"><script src="x.js">') == []
    assert external_resources('<script async src="https://cdn.example/x.js"></script>') == ["https://cdn.example/x.js"]
    assert external_resources('<link rel="preconnect" href="//fonts.example">') == ["//fonts.example"]
    assert external_resources("<style>@import url(https://fonts.example/a)</style>") == ["https://fonts.example/a"]


TEXT = (ROOT / "CHANGELOG.md").read_text()


def test_newest_release_is_the_version_of_the_package() -> None:
    versions = re.findall(r"^## \[(\d.*?)\]", TEXT, re.MULTILINE)

    assert versions[0] == __version__
    assert f"[{__version__}]: https://" in TEXT
