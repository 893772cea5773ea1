"""Changing top-level members of a JSON object as text: every byte that is not of such a member stays as it was.

A parser and a printer between the caller and Skyvern would turn 20-digit integers into floats, 1.0 into 1, and lose
the order and the duplicates. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_SPACE = re.compile(rb"[ \t\n\r]*")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_BARE = re.compile(rb"[^,}\]\s]+")


class NotAnObject(ValueError):
    """The text is no JSON object. `position`: the character where that was seen, or None for another kind of value."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class _Member(NamedTuple):
    name: str
    start: int  # after the brace or comma before it
    value: int  # where its value begins
    value_end: int
    end: int  # at the comma or brace after it


def parse(text: bytes) -> dict[str, Any]:
    """The object in `text`, as Skyvern's own parser reads it, except that only UTF-8 is taken. Raises NotAnObject."""
    try:
        found = json.loads(text.decode())
    except json.JSONDecodeError as error:
        raise NotAnObject(error.msg, error.pos) from None
    except UnicodeDecodeError as error:
        raise NotAnObject("not UTF-8", error.start) from None
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        raise NotAnObject("too deep, or a number too long", 0) from None
    if not isinstance(found, dict):
        raise NotAnObject("not an object")
    return found


def splice(text: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """`text`, a JSON object that `parse` takes, with other top-level members.

    `changes`: by name, the new value as JSON text, or None to drop the member. A name that is not there is added as
    the first member; of one that is there several times, all are changed.
    """
    opening, members, closing = _members(text)
    pieces: list[bytes] = []
    there = set()
    for member in members:
        there.add(member.name)
        value = changes.get(member.name, b"")
        if value:
            pieces.append(text[member.start : member.value] + value + text[member.value_end : member.end])
        elif value is not None:
            pieces.append(text[member.start : member.end])
    added = [json.dumps(name).encode() + b":" + value for name, value in changes.items() if value and name not in there]
    inside = b",".join([*added, *pieces])
    if not pieces and not members:
        inside += text[opening:closing]  # an empty object may hold white space
    return text[:opening] + inside + text[closing:]


def _members(text: bytes) -> tuple[int, list[_Member], int]:
    """Where the object's inside begins, its members, and where the inside ends."""
    start = opening = _space(text, 0) + 1
    members: list[_Member] = []
    while True:
        at = _space(text, start)
        if text[at : at + 1] == b"}":
            return opening, members, at
        name = _STRING.match(text, at)
        assert name is not None, "the text was parsed before"
        value = _space(text, _space(text, name.end()) + 1)
        value_end = _end_of(text, value)
        end = _space(text, value_end)
        # What a lone surrogate is written as, only the surrogate itself can be compared with.
        members.append(_Member(json.loads(name[0].decode(), strict=False), start, value, value_end, end))
        if text[end : end + 1] == b"}":
            return opening, members, end
        start = end + 1


def _space(text: bytes, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _end_of(text: bytes, start: int) -> int:
    """Where the value at `start` ends."""
    first = text[start : start + 1]
    if first not in (b"{", b"["):
        found = (_STRING if first == b'"' else _BARE).match(text, start)
        assert found is not None, "the text was parsed before"
        return found.end()
    depth, at = 0, start
    while found := _BRACKET.search(text, at):
        at = found.end()
        if found[0] in (b"{", b"["):
            depth += 1
        elif found[0] in (b"}", b"]"):
            depth -= 1
            if not depth:
                break
    return at
