"""The tree of errors in the docstring of receiver.errors is the tree that there is."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import receiver
from receiver import errors
from receiver.errors import RequestError, RunhookError

_LINE = re.compile(
    r"^    (?P<branch>[│├└─ ]*)(?P<name>[A-Z]\w+) +(?:exit (?P<exit>\d)|(?P<status>\d{3}) \"(?P<code>\w+)\")?"
)
Row = tuple[int, str, str]


def written() -> Iterator[Row]:
    """(depth, name, exit code or status with code) of each line of the tree."""
    for line in (errors.__doc__ or "").splitlines():
        if found := _LINE.match(line):
            value = found["exit"] or (f"{found['status']} {found['code']}" if found["status"] else "")
            yield len(found["branch"]) // 4, found["name"], value


def existing(cls: type[RunhookError] = RunhookError, depth: int = 0) -> Iterator[Row]:
    """The same of the classes that there are."""
    if issubclass(cls, RequestError):
        value = f"{cls.status} {cls.code}" if cls is not RequestError else ""
    else:
        value = str(cls.exit_code)
    yield depth, cls.__name__, value
    for each in cls.__subclasses__():
        if each.__module__.startswith("receiver."):
            yield from existing(each, depth + 1)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    for module in pkgutil.walk_packages(receiver.__path__, "receiver."):
        if not module.name.endswith((".__main__", ".env")):
            importlib.import_module(module.name)

    assert sorted(written()) == sorted(existing())
    assert len(set(written())) > 10


def test_a_command_ends_as_its_page_says_whoever_was_asked() -> None:
    """What a person wrote wrongly is 2, here and on a remote service; what can't be reached or used is 3."""
    of_caller = (errors.ConfigError, errors.UsageError, errors.Invalid, errors.NotFound, errors.NoKey, errors.Forbidden)
    assert {each.exit_code for each in of_caller} == {2}
    assert {errors.NotStarted.exit_code, errors.Busy.exit_code} == {3}
    assert {errors.Conflict.exit_code, errors.NotAsExpected.exit_code} == {1}


def test_something_raises_each_leaf_of_the_tree() -> None:
    text = "\n".join(path.read_text() for path in Path(receiver.__file__).parent.rglob("*.py"))
    names = {name for _, name, _ in existing()} - {RunhookError.__name__, RequestError.__name__}

    assert [name for name in sorted(names) if not re.search(rf"(?<!class )\b{name}\(", text)] == []
