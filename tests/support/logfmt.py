"""A strict reader of our log lines."""

from __future__ import annotations

import re

HEAD = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (\w+) ([\w.]+)(?: ([a-z]\w*(?:\.\w+)+))?(?= |$)")
FIELD = re.compile(r' ([\w.]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s"=]+))')


def parsed(line: str) -> tuple[str | None, dict[str, str]]:
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
