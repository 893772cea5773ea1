"""As much of JSON Schema as the config file's schema uses, for tests: no validator is among the dependencies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any


def mismatches(value: Any, schema: Any, root: Mapping[str, Any], where: str = "") -> list[str]:
    """Where `value` does not fit: as much of JSON Schema as ours uses, and an error for anything else."""
    if schema is True:
        return []
    if schema is False:
        return [where]
    found: list[str] = []
    for keyword, wanted in schema.items():
        found += _KEYWORDS[keyword](value, wanted, schema, root, where)
    return found


def _below(where: str, part: object) -> str:
    return f"{where}.{part}" if where else str(part)


def _type(value: Any, wanted: Any, schema: Any, root: Any, where: str) -> list[str]:
    kinds = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "null": value is None,
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool),
    }
    return [] if any(kinds[each] for each in ([wanted] if isinstance(wanted, str) else wanted)) else [where]


def _properties(value: Any, wanted: Any, schema: Any, root: Any, where: str) -> list[str]:
    parts = value.items() if isinstance(value, dict) else ()
    return [
        problem
        for name, each in parts
        if name in wanted
        for problem in mismatches(each, wanted[name], root, _below(where, name))
    ]


def _additional(value: Any, wanted: Any, schema: Any, root: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return []
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    rest = [name for name in value if name not in known and not any(re.search(each, name) for each in patterns)]
    if wanted is False:
        return [where] if rest else []
    return [problem for name in rest for problem in mismatches(value[name], wanted, root, _below(where, name))]


def _items(value: Any, wanted: Any, schema: Any, root: Any, where: str) -> list[str]:
    items = value if isinstance(value, list) else []
    return [
        problem for index, each in enumerate(items) for problem in mismatches(each, wanted, root, _below(where, index))
    ]


def _any(value: Any, wanted: Any, schema: Any, root: Any, where: str) -> list[str]:
    tries = [mismatches(value, each, root, where) for each in wanted]
    return [] if any(not each for each in tries) else min(tries, key=lambda each: -max(map(len, each)))


def _then(value: Any, wanted: Any, schema: Any, root: Any, where: str) -> list[str]:
    return [] if mismatches(value, schema["if"], root, where) else mismatches(value, wanted, root, where)


def _names(value: Any, wanted: Any, schema: Any, root: Any, where: str) -> list[str]:
    names = value if isinstance(value, dict) else {}
    return [where for name in names if mismatches(name, wanted, root, where)]


def _when(kind: type | tuple[type, ...], fails: Callable[[Any, Any], bool]) -> Callable[..., list[str]]:
    """A keyword that says something of values of one kind only."""
    return lambda value, wanted, schema, root, where: (
        [where] if isinstance(value, kind) and not isinstance(value, bool) and fails(value, wanted) else []
    )


_NUMBER = (int, float)
_KEYWORDS: dict[str, Callable[..., list[str]]] = {
    **dict.fromkeys(
        (
            *("$schema", "$defs", "title", "description", "default", "examples", "deprecated", "writeOnly", "format"),
            *("if", "patternProperties", "uniqueItems", "ge", "le", "gt"),
        ),
        lambda *_: [],
    ),
    "$ref": lambda value, wanted, schema, root, where: mismatches(
        value, root["$defs"][wanted.removeprefix("#/$defs/")], root, where
    ),
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "propertyNames": _names,
    "items": _items,
    "anyOf": _any,
    "allOf": lambda value, wanted, schema, root, where: [
        problem for each in wanted for problem in mismatches(value, each, root, where)
    ],
    "then": _then,
    "required": lambda value, wanted, schema, root, where: (
        [where for name in wanted if name not in value] if isinstance(value, dict) else []
    ),
    "enum": lambda value, wanted, schema, root, where: [] if value in wanted else [_below(where, "")[:-1] or where],
    "const": lambda value, wanted, schema, root, where: [] if value == wanted else [where],
    "pattern": _when(str, lambda value, wanted: not re.search(wanted, value)),
    "minLength": _when(str, lambda value, wanted: len(value) < wanted),
    "maxLength": _when(str, lambda value, wanted: len(value) > wanted),
    "minimum": _when(_NUMBER, lambda value, wanted: value < wanted),
    "maximum": _when(_NUMBER, lambda value, wanted: value > wanted),
    "exclusiveMinimum": _when(_NUMBER, lambda value, wanted: value <= wanted),
    "exclusiveMaximum": _when(_NUMBER, lambda value, wanted: value >= wanted),
    "minItems": _when(list, lambda value, wanted: len(value) < wanted),
    "maxItems": _when(list, lambda value, wanted: len(value) > wanted),
    "minProperties": _when(dict, lambda value, wanted: len(value) < wanted),
    "maxProperties": _when(dict, lambda value, wanted: len(value) > wanted),
}

KNOWN = frozenset(_KEYWORDS)


def keywords(schema: Any) -> set[str]:
    """Every keyword that `schema` uses."""
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema)
    for name, value in schema.items():
        if name in ("properties", "$defs", "patternProperties"):
            found |= set().union(*map(keywords, value.values()))
        elif name not in ("default", "enum", "const", "examples", "required"):
            found |= keywords(value)
    return found
