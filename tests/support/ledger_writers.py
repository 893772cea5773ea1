"""The functions of receiver/ledger that product code runs in a writing transaction, found in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

WRITES = {"write", "write_patiently", "alter"}
LEDGERS = ("ledger", "target")
STATEMENTS = {"insert", "update", "delete"}
MANY_ROWS = "receiver.ledger.database.many_rows"

Definition = tuple[str, str]  # module, name


@cache
def parsed(module: str) -> ast.Module | None:
    """The syntax tree of one of our modules; None for another."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    return ast.parse(path.read_text()) if module.startswith("receiver.") and path.exists() else None


@cache
def imported(module: str) -> dict[str, Definition]:
    """What each imported name is: of which module, and which name there, "" for the module as a whole."""
    found: dict[str, Definition] = {}
    for node in ast.walk(parsed(module) or ast.Module([], [])):
        if isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                whole = f"{node.module}.{each.name}"
                found[each.asname or each.name] = (whole, "") if parsed(whole) else (node.module, each.name)
    return found


@cache
def definitions(module: str) -> dict[str, list[ast.AST]]:
    """The functions of a module, nested ones and methods too, and what it assigns, by name."""
    found: dict[str, list[ast.AST]] = {}
    for node in ast.walk(parsed(module) or ast.Module([], [])):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            for target in [node.target] if isinstance(node, ast.AnnAssign) else node.targets:
                found.setdefault(ast.unparse(target), []).append(node)
    return found


def named(module: str, node: ast.AST) -> Iterator[Definition]:
    """Yield the definitions that `node`, which is part of a module, refers to."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield imported(module).get(each.id, (module, each.id))
        elif isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
            if each.value.id == "self":
                yield module, each.attr
            elif each.value.id in imported(module):
                yield imported(module)[each.value.id][0], each.attr


def writers_in(module: str, node: ast.AST, seen: set[Definition]) -> Iterator[str]:
    """Yield the writing functions of the ledger that `node` leads to: the first on each way."""
    for of, name in named(module, node):
        if (of, name) in seen or name not in definitions(of):
            continue
        seen.add((of, name))
        if of.startswith("receiver.ledger."):
            if is_writing(of, name):
                yield f"{of.rpartition('.')[2]}.{name}"
        else:
            for found in definitions(of)[name]:
                yield from writers_in(of, found, seen)


@cache
def is_writing(module: str, name: str) -> bool:
    """Whether this definition of the ledger leads to a statement that writes."""
    pending, seen = [(module, name)], set[Definition]()
    while pending:
        of, what = pending.pop()
        if (of, what) in seen:
            continue
        seen.add((of, what))
        if of == MANY_ROWS:
            return True
        for node in definitions(of).get(what, ()):
            attributes = [each for each in ast.walk(node) if isinstance(each, ast.Attribute)]
            if any(each.attr in STATEMENTS and ast.unparse(each.value) == "sa" for each in attributes):
                return True
            pending += named(of, node)
    return False


def writers_of(path: Path) -> Iterator[str]:
    """Yield the writers of the ledger that a file passes to a ledger."""
    module = str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for node in ast.walk(parsed(module) or ast.Module([], [])):
        called = node.func if isinstance(node, ast.Call) else None
        if not isinstance(called, ast.Attribute) or called.attr not in WRITES:
            continue
        if isinstance(node, ast.Call) and ast.unparse(called.value).endswith(LEDGERS):
            for given in [*node.args, *(each.value for each in node.keywords)]:
                yield from writers_in(module, given, set())


def all_writers() -> set[str]:
    """The writers of the ledger that product code passes to a ledger."""
    files = [
        path for path in sorted((ROOT / "receiver").rglob("*.py")) if "ledger" not in path.relative_to(ROOT).parts[:2]
    ]
    return {writer for path in files for writer in writers_of(path)}
