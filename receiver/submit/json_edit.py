"""Editing top-level members of a JSON object as text: every byte of the other members stays as it was.

A parser and a printer between the caller and Skyvern would turn 20-digit integers into floats, 1.0 into 1, and lose
the order and the duplicates. Pure.

Values are skipped by the scanner of Python's own json, which is written in C. It holds the interpreter's lock while it
scans a value, also in a thread, so what callers send is bounded in its number of values before it is parsed at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from json import decoder
from typing import Any, Final, NamedTuple

# Values, members and items of a request, over all levels: parsing them takes 0.1 s or less.
MAX_VALUES: Final = 200_000

# Numbers are measured, not converted: what is skipped may have more digits than an int takes.
_decoder: Any = json.JSONDecoder(strict=False, parse_int=len, parse_float=len)
_scan_value = _decoder.scan_once
_scan_string: Any = decoder.scanstring  # type: ignore[attr-defined]
_skip_space: Any = decoder.WHITESPACE.match  # type: ignore[attr-defined]


class NotAnObject(ValueError):
    """The text is not a JSON object. `position`: of the mistake, or None for another kind of value."""

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


def has_too_many_values(text: bytes, most: int = MAX_VALUES) -> bool:
    """Return whether the JSON text has more than `most` values, counted without building them. In time linear in the
    text's length, of which no part holds the interpreter's lock for long."""
    if _separators(text, 0, len(text)) <= most:
        return False
    # Many may stand inside of strings. Without escapes, each quote begins or ends one.
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    count = strings = position = 0
    while count <= most and strings <= 2 * most:  # invalid JSON may have strings with nothing between them
        opening = text.find(b'"', position)
        if opening < 0:
            return count + _separators(text, position, len(text)) > most
        strings += 1
        count += _separators(text, position, opening)
        position = text.find(b'"', opening + 1) + 1
        if not position:
            return False  # the string has no end: the parser raises
    return True


def _separators(text: bytes, start: int, end: int) -> int:
    return text.count(b",", start, end) + text.count(b"[", start, end) + text.count(b"{", start, end)


def edit_members(text: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """Return `text`, a JSON object that `parse_object` takes, with other top-level members.

    `changes`: by name, the new value as JSON text, or None to drop the member. A name that is not there is added as
    the first member; of one that is there several times, all are changed.
    """
    decoded = text.decode()
    opening = begun = _opening(decoded)
    kept: list[str] = []  # stretches of members that stay, and changed ones
    found: set[str] = set()
    member = None
    for member in _members(decoded):
        if member.name not in changes:
            continue
        found.add(member.name)
        if begun < member.start:
            kept.append(decoded[begun : member.start - 1])
        begun = member.end + 1
        if value := changes[member.name]:
            before, after = decoded[member.start : member.value_start], decoded[member.value_end : member.end]
            kept.append(before + value.decode() + after)
    closing = member.end if member else _skip_space(decoded, opening).end()
    if member and begun <= closing:
        kept.append(decoded[begun:closing])
    added = [f"{json.dumps(name)}:{value.decode()}" for name, value in changes.items() if value and name not in found]
    inside = ",".join([*added, *kept])
    if not member:
        inside += decoded[opening:closing]  # an empty object may hold white space
    return (decoded[:opening] + inside + decoded[closing:]).encode()


def arrange_members(text: bytes, names: Iterable[str], values: Mapping[str, bytes]) -> bytes:
    """Return an object with the members `names`, in that order: those of `values` (JSON text), the others as they are
    in `text`, a JSON object that `parse_object` takes and that has them. Of one that is there several times, the last.
    """
    decoded = text.decode()
    there = {member.name: decoded[member.value_start : member.value_end] for member in _members(decoded)}
    members = (
        json.dumps(name).encode() + b":" + (values[name] if name in values else there[name].encode()) for name in names
    )
    return b"{" + b",".join(members) + b"}"


def _opening(text: str) -> int:
    """Return where the object's inside begins."""
    end: int = _skip_space(text, 0).end()
    return end + 1


def _members(text: str) -> Iterator[_Member]:
    """Yield the members of an object that was parsed before."""
    start = _opening(text)
    while True:
        at = _skip_space(text, start).end()
        if text[at] == "}":
            return
        # Decoded, for "\u0061" is the name "a".
        name, at = _scan_string(text, at + 1, False)
        value_start = _skip_space(text, _skip_space(text, at).end() + 1).end()
        _, value_end = _scan_value(text, value_start)
        end = _skip_space(text, value_end).end()
        yield _Member(name, start, value_start, value_end, end)
        if text[end] == "}":
            return
        start = end + 1
