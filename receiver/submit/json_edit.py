"""Editing top-level members of a JSON object as text: every byte of the other members stays as it was.

A parser and a printer between the caller and Skyvern would turn 20-digit integers into floats, 1.0 into 1, and lose
the order and the duplicates. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_LITERAL = re.compile(rb"[^,}\]\s]+")


class NotAnObject(ValueError):
    """The text is no JSON object. `position`: the character where that was seen, or None for another kind of value."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class _Member(NamedTuple):
    name: str
    start: int  # after the brace or comma before it
    value_start: int
    value_end: int
    end: int  # at the comma or brace after it


def parse_object(text: bytes) -> dict[str, Any]:
    """Return the object in `text`, read as by Skyvern's own parser, but UTF-8 only. Raises NotAnObject."""
    try:
        value = json.loads(text.decode())
    except json.JSONDecodeError as error:
        raise NotAnObject(error.msg, error.pos) from None
    except UnicodeDecodeError as error:
        raise NotAnObject("not UTF-8", error.start) from None
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        raise NotAnObject("too deep, or a number too long", 0) from None
    if not isinstance(value, dict):
        raise NotAnObject("not an object")
    return value


def edit_members(text: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """Return `text`, a JSON object that `parse_object` takes, with other top-level members.

    `changes`: by name, the new value as JSON text, or None to drop the member. A name that is not there is added as
    the first member; of one that is there several times, all are changed.
    """
    opening, members, closing = _members(text)
    kept: list[bytes] = []
    for member in members:
        value = changes.get(member.name, b"")
        if value:
            kept.append(text[member.start : member.value_start] + value + text[member.value_end : member.end])
        elif value is not None:
            kept.append(text[member.start : member.end])
    names = {member.name for member in members}
    added = [json.dumps(name).encode() + b":" + value for name, value in changes.items() if value and name not in names]
    inside = b",".join([*added, *kept])
    if not members:
        inside += text[opening:closing]  # an empty object may hold white space
    return text[:opening] + inside + text[closing:]


def arrange_members(text: bytes, names: Iterable[str], values: Mapping[str, bytes]) -> bytes:
    """Return an object with the members `names`, in that order: those of `values` (JSON text), the others as they are
    in `text`, a JSON object that `parse_object` takes and that has them. Of one that is there several times, the last.
    """
    there = {member.name: text[member.value_start : member.value_end] for member in _members(text)[1]}
    members = (json.dumps(name).encode() + b":" + (values[name] if name in values else there[name]) for name in names)
    return b"{" + b",".join(members) + b"}"


def _members(text: bytes) -> tuple[int, list[_Member], int]:
    """Return where the object's inside begins, its members, and where the inside ends."""
    start = opening = _skip_space(text, 0) + 1
    members: list[_Member] = []
    while True:
        at = _skip_space(text, start)
        if text[at : at + 1] == b"}":
            return opening, members, at
        name = _STRING.match(text, at)
        assert name is not None, "the text was parsed before"
        value_start = _skip_space(text, _skip_space(text, name.end()) + 1)
        value_end = _value_end(text, value_start)
        end = _skip_space(text, value_end)
        # Decoded, for "\u0061" is the name "a".
        members.append(_Member(json.loads(name[0].decode(), strict=False), start, value_start, value_end, end))
        if text[end : end + 1] == b"}":
            return opening, members, end
        start = end + 1


def _skip_space(text: bytes, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _value_end(text: bytes, start: int) -> int:
    """Return where the value at `start` ends."""
    first = text[start : start + 1]
    if first not in (b"{", b"["):
        found = (_STRING if first == b'"' else _LITERAL).match(text, start)
        assert found is not None, "the text was parsed before"
        return found.end()
    depth, at = 0, start
    while found := _STRING_OR_BRACKET.search(text, at):
        at = found.end()
        if found[0] in (b"{", b"["):
            depth += 1
        elif found[0] in (b"}", b"]"):
            depth -= 1
            if not depth:
                break
    return at
