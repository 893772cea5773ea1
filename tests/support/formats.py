"""What texts and values must be: safe file names, JSON of a schema, log lines."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
TEXT = st.text(st.characters(exclude_categories=[]), max_size=400)


def is_safe(name: str, cap: int) -> bool:
    """Whether `name` is a safe file name of at most `cap` bytes."""
    return (
        bool(name)
        and name not in (".", "..")
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and not set(name) & set('/\\:*?"<>|#%^`{}~')
        and all(ord(char) >= 32 and not 127 <= ord(char) < 160 for char in name)
        and len(name.encode()) <= cap
    )


def mismatches(value: Any, schema: Any) -> set[str]:
    """The paths of what does not fit, those within alternatives too, such as `sinks.a.type`."""
    found: set[str] = set()
    errors = list(Draft202012Validator(schema).iter_errors(value))
    while errors:
        error = errors.pop()
        found.add(".".join(map(str, error.absolute_path)))
        errors += error.context
    return found


HEAD = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (\w+) ([\w.]+)(?: ([a-z]\w*(?:\.\w+)+))?(?= |$)")
FIELD = re.compile(r' ([\w.]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"=]+))')


def parse_log_line(line: str) -> tuple[str | None, dict[str, str]]:
    """The event and the fields. Fails for a line that is not all of that."""
    head = HEAD.match(line)
    assert head, line
    at, fields = head.end(), {}
    while at < len(line):
        field = FIELD.match(line, at)
        assert field, line[at:]
        text = field[3] if field[2] is None else field[2].replace(r"\n", "\n").replace(r"\"", '"').replace(r"\\", "\\")
        fields[field[1]] = text
        at = field.end()
    return head[4], fields
