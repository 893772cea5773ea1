"""Where a value does not fit a JSON Schema."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]


def mismatches(value: Any, schema: Any) -> set[str]:
    """The paths of what does not fit, those within alternatives too, such as `sinks.a.type`."""
    found: set[str] = set()
    errors = list(Draft202012Validator(schema).iter_errors(value))
    while errors:
        error = errors.pop()
        found.add(".".join(map(str, error.absolute_path)))
        errors += error.context
    return found
