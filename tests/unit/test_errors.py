"""Exit codes of commands, and that each error has a use."""

import re
from collections.abc import Iterator
from pathlib import Path

import receiver
from receiver import errors
from receiver.errors import RequestError, RunhookError


def subclasses(cls: type[RunhookError]) -> Iterator[type[RunhookError]]:
    for each in cls.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
            yield from subclasses(each)


def test_exit_code_is_the_same_on_a_remote_service() -> None:
    """What a person wrote wrongly is 2; what can't be reached or used is 3."""
    of_caller = (errors.ConfigError, errors.UsageError, errors.Invalid, errors.NotFound, errors.NoKey, errors.Forbidden)
    assert {each.exit_code for each in of_caller} == {2}
    assert {errors.NotStarted.exit_code, errors.Busy.exit_code} == {3}
    assert {errors.Conflict.exit_code, errors.NotAsExpected.exit_code} == {1}


def test_each_error_is_raised_somewhere() -> None:
    text = "\n".join(path.read_text() for path in Path(receiver.__file__).parent.rglob("*.py"))
    names = {each.__name__ for each in subclasses(RunhookError)} - {RequestError.__name__}
    assert len(names) > 10
    assert [name for name in sorted(names) if not re.search(rf"(?<!class )\b{name}\(", text)] == []
