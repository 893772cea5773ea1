"""Rules written as a mapping of dotted paths to expected values. Pure; independent of CEL and routes.

    status: [failed, timed_out]        any of them
    output.vendor: "Acme*"             glob: * any text, ? one character
    output.items.0.price: 12           an index into a list; numbers compare by value, so 12 is 12.0
    errors.*.error_code: LOGIN_*       * in a path: any element
    output: {vendor: Acme, paid: true} all of these below output

A missing field never matches, null matches null only, and true is not 1.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

# What rules can ask of an event itself: `event.via`.
EVENT_FIELDS = ("id", "source", "via", "disposition", "received_at")
# How many values one condition reads, where * fans out: data comes from strangers.
MAX_VALUES = 50_000

# Keys below the mapping, and the problem there.
Problem = tuple[tuple[str | int, ...], str]


class Outcome(NamedTuple):
    """The result of a rule. `error`: it could not be evaluated, which is no match. A missing field is not an error."""

    matched: bool
    why: str
    error: bool = False


class Condition(NamedTuple):
    """The expected values at one path. `texts` are the globs; `values` are compared as they are."""

    path: str
    parts: tuple[str, ...]
    values: tuple[Any, ...]
    globs: tuple[re.Pattern[str], ...]
    expected: str

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of the expected values."""
        if isinstance(value, str):
            return value in self.values or any(glob.match(value) for glob in self.globs)
        return any(_same(value, expected) for expected in self.values)


def compile_mapping(when: Mapping[str, Any]) -> tuple[list[Condition], list[Problem]]:
    """Return the conditions in `when`, and the problems with it."""
    conditions: list[Condition] = []
    problems: list[Problem] = []
    if not when:
        problems.append(((), "is an empty mapping; leave `when` out for always"))
    _compile(when, "", (), conditions, problems)
    return conditions, problems


def _compile(
    when: Mapping[str, Any],
    prefix: str,
    keys: tuple[str | int, ...],
    conditions: list[Condition],
    problems: list[Problem],
) -> None:
    for name, expected in when.items():
        path, here = f"{prefix}{name}", (*keys, name)
        if isinstance(expected, Mapping):
            if not expected:
                problems.append((here, "is an empty mapping; add the expected fields"))
            _compile(expected, f"{path}.", here, conditions, problems)
        elif problem := _path_problem(path):
            problems.append((here, problem))
        else:
            wishes = expected if isinstance(expected, list) else [expected]
            if not wishes:
                problems.append((here, "is an empty list, which nothing matches; add values"))
            for index, wish in enumerate(wishes):
                if isinstance(wish, list | Mapping):
                    problems.append(((*here, index), "must be a single value; a list means any of its values"))
            conditions.append(_condition(path, [wish for wish in wishes if not isinstance(wish, list | Mapping)]))


def _path_problem(path: str) -> str:
    parts = path.split(".")
    if not all(parts):
        return "is not a dotted path such as output.vendor"
    if parts[0] == "event" and (len(parts) == 1 or parts[1] not in EVENT_FIELDS or len(parts) > 2):
        guess = difflib.get_close_matches(parts[1] if len(parts) > 1 else "", EVENT_FIELDS, 1)
        hint = f"did you mean event.{guess[0]}?" if guess else f"an event has {', '.join(EVENT_FIELDS)}"
        return f"{path} is not known; {hint}" if len(parts) > 1 else hint
    return ""


def _condition(path: str, wishes: list[Any]) -> Condition:
    texts = [wish for wish in wishes if isinstance(wish, str)]
    return Condition(
        path=path,
        parts=tuple(path.removeprefix("run.").split(".")),
        values=tuple(wishes),
        globs=tuple(re.compile(fnmatch.translate(text)) for text in texts if "*" in text or "?" in text),
        expected=" or ".join(show(wish) for wish in wishes),
    )


def _find(root: Any, parts: tuple[str, ...]) -> Iterator[Any]:
    """Yield the values at a path: none, one, or with * any number. A key that itself has dots in it is found too."""
    if not parts:
        yield root
        return
    head, rest = parts[0], parts[1:]
    if isinstance(root, dict):
        if head in root:
            yield from _find(root[head], rest)
        elif head == "*":
            for item in root.values():
                yield from _find(item, rest)
        else:
            for length in range(2, len(parts) + 1):
                if (joined := ".".join(parts[:length])) in root:
                    yield from _find(root[joined], parts[length:])
    elif isinstance(root, list):
        if head == "*":
            for item in root:
                yield from _find(item, rest)
        elif head.isdecimal() and int(head) < len(root):
            yield from _find(root[int(head)], rest)


def test(conditions: Sequence[Condition], root: Any, *, explain: bool) -> Outcome:
    """Return whether all conditions hold in `root`. `explain`: the reason names the values there."""
    reasons = []
    for each in conditions:
        values = list(islice(_find(root, each.parts), MAX_VALUES))
        if not values:
            return Outcome(False, f"{each.path} is missing")
        there = ", ".join(map(show, values[:3])) if explain else each.expected
        if not any(map(each.holds, values)):
            return Outcome(False, f"{each.path} is not {each.expected}" + (f" but {there}" if explain else ""))
        reasons.append(f"{each.path} is {there}" + (f", wanted {each.expected}" if there != each.expected else ""))
    return Outcome(True, " and ".join(reasons) or "it has no condition")


def show(value: Any) -> str:
    """Return a value as a person reads it, short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = str(value)
    text = text if len(text) <= 60 else text[:57] + "…"
    return json.dumps(text, ensure_ascii=False) if isinstance(value, str) else text


def _same(value: Any, expected: Any) -> bool:
    """Equal, and neither a truth value for a number nor the other way round."""
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    return bool(value == expected)
