"""A JSON value as a tree to read, for the command line and the console: bounded, however large the value is. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

# Nodes of one tree, levels of it, and characters of one text.
MAX_NODES: Final = 2000
MAX_DEPTH: Final = 12
MAX_TEXT: Final = 4000
# A text that reads as another value.
_NOT_TEXT: Final = re.compile(r"true|false|null|[-+.,\d]*\d(e[-+]?\d+)?|", re.IGNORECASE)


@dataclass(slots=True)
class Node:
    """One value. `name`: its member's name or place, "" at the top. `kind`: object, array, text, number, true, false
    or null. `text`: of a scalar; of the others how much they hold. `nulls`: the names of an object's members that are
    null: a body of Skyvern has dozens, which hide the others where each has a line. `left_out`: how many children are
    not here."""

    name: str
    kind: str
    text: str
    children: list[Node] = field(default_factory=list)
    nulls: list[str] = field(default_factory=list)
    left_out: int = 0

    @property
    def shown(self) -> str:
        """The text; in quotes where it reads as another value."""
        return f'"{self.text}"' if self.kind == "text" and _NOT_TEXT.fullmatch(self.text) else self.text


def outline(value: Any, max_nodes: int = MAX_NODES) -> Node:
    """Return the tree of a value, level by level until it has `max_nodes`: so each branch is seen before its depths."""
    top = _node("", value)
    level: list[tuple[Node, Any]] = [(top, value)] if top.kind in ("object", "array") else []
    left = max_nodes - 1
    for depth in range(MAX_DEPTH + 1):
        below: list[tuple[Node, Any]] = []
        for node, its_value in level:
            items, nulls = _children(its_value)
            room = max(left, 0) if depth < MAX_DEPTH else 0
            shown = items[:room]
            node.nulls = nulls[: room - len(shown)]
            node.left_out = len(items) - len(shown) + len(nulls) - len(node.nulls)
            left -= len(shown) + len(node.nulls)
            for name, each in shown:
                child = _node(str(name), each)
                node.children.append(child)
                if child.kind in ("object", "array"):
                    below.append((child, each))
        level = below
        if not level:
            break
    return top


def _children(value: Any) -> tuple[list[tuple[object, Any]], list[str]]:
    """Return the items of an object or array, but no member that is null, and the names of these."""
    if not isinstance(value, Mapping):
        return list(enumerate(value)), []
    items = [(name, each) for name, each in value.items() if each is not None]
    return items, [str(name) for name, each in value.items() if each is None]


def _node(name: str, value: Any) -> Node:
    if isinstance(value, Mapping):
        return Node(name, "object", _count(len(value), "member"))
    if isinstance(value, (list, tuple)):
        return Node(name, "array", _count(len(value), "item"))
    if isinstance(value, str):
        more = f" … {len(value) - MAX_TEXT} characters more" if len(value) > MAX_TEXT else ""
        return Node(name, "text", value[:MAX_TEXT] + more)
    if value is None or isinstance(value, bool):
        return Node(name, {True: "true", False: "false", None: "null"}[value], json.dumps(value))
    return Node(name, "number", json.dumps(value))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
