"""How much memory the values of a JSON body take, before they are built; and its members without building them. Pure.

A body of 16 MiB may hold five million lists: `[[],[],…]` takes 450 MB as Python's values, and half as much again to be
worked with. An ordinary one takes four to ten times its length. So a large body is looked at first, by counting a few
bytes: in 20 ms for 16 MiB. Counting takes what stands in strings for values, which can only be too much; then it is
looked at more closely, in 0.3 s. What is too much is split into its members, and those that fit are read.

Sizes are those of CPython 3.11 on 64 bits: of list 56 bytes and 8 an item, of dict 184 for up to five keys, of str 49
and its text, of a number 24 to 32.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Final

# Most bytes that the values of one body may take.
MOST_MEMORY: Final = 128 << 20
# Bytes of a body up to which it is never too much: an empty object takes 27 times its text.
SMALL: Final = 4 << 20
# Levels and members that are looked through in a body that is too much.
MAX_LEVELS: Final = 400
MAX_MEMBERS: Final = 1000

# Bytes of the small members that `outline` leaves as they are, together.
OUTLINED: Final = 256 << 10

_WINDOW: Final = 256 << 10
_STRING = rb'"(?:[^"\\]++|\\.)*+"'


# Each quantifier is possessive, so nothing is tried twice, and nothing is kept to go back to.
_TOKENS = re.compile(rb'(?:[^"]++|' + _STRING + rb")*+", re.DOTALL)
_ONE_STRING = re.compile(_STRING, re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*+")
_SHARED = re.compile(rb"(?<![\w.])(?:null|true|false|[0-9]{1,2})(?![\w.])")
_MARKS: Final = (b"[", b"[]", b"{", b"{}", b",", b":", b'"')
_SCALAR = re.compile(rb'[^\s\[\]{}",:]++')


@cache
def _balanced() -> re.Pattern[bytes]:
    """Return a pattern of any values, commas and colons in which brackets are nested up to eight levels. It takes long
    to be compiled, and small bodies need none."""

    def nested(levels: int) -> bytes:
        within = rb"|[\[{]" + nested(levels - 1) + rb"[\]}]" if levels else b""
        return rb'(?:[^\[\]{}"]++|' + _STRING + within + rb")*+"

    return re.compile(nested(8), re.DOTALL)


class NoMembers(ValueError):
    """The members of a body cannot be separated, for the given reason."""


def too_much(body: bytes) -> int:
    """Return about how many bytes the values of `body` take when that is more than MOST_MEMORY; else 0."""
    if len(body) <= SMALL:
        return 0
    memory = memory_of(body, MOST_MEMORY)
    return memory if memory > MOST_MEMORY else 0


def memory_of(text: bytes, enough: int = 0) -> int:
    """Return about how many bytes the values of JSON `text` take.

    `enough`: a rough number, which is never too small, will do when it is not over that.
    """
    rough = _rough(text)
    return rough if rough <= enough else _close(text)


def _rough(text: bytes) -> int:
    return _memory([text.count(mark) for mark in _MARKS], len(text) if text.isascii() else 4 * len(text))


def _memory(counts: list[int], text: int, shared: int = 0) -> int:
    """Return the bytes of `counts` _MARKS, and of `text` bytes in strings. `shared`: values that Python has already."""
    lists, empty_lists, objects, empty_objects, commas, colons, quotes = counts
    strings = max(0, (quotes + 1) // 2 - colons)  # the rest are keys, each of which is kept once
    numbers = max(0, commas + 1 - strings - empty_lists - empty_objects - shared)
    return (
        64 * lists
        + 184 * objects
        - 120 * empty_objects
        + 40 * max(0, colons - 3 * objects)
        + 8 * commas
        + 56 * strings
        + 28 * numbers
        + text
    )


def _close(text: bytes) -> int:
    """Estimate as `_rough` does, without what is in strings and without values that Python shares."""
    counts, size, shared, position = [0] * len(_MARKS), 0, 0, 0
    while position < len(text):
        window = text[position : position + _WINDOW]
        found = _TOKENS.match(window)
        done = found.end() if found else 0
        if done:
            bare = _ONE_STRING.sub(b'""', window[:done])
            counts = [count + bare.count(mark) for count, mark in zip(counts, _MARKS, strict=True)]
            shared += len(_SHARED.findall(bare))
        else:  # one string that is longer than the window, or does not end
            long = _ONE_STRING.match(text, position)
            done = (long.end() if long else len(text)) - position
            counts[_MARKS.index(b'"')] += 2
        piece = text[position : position + done]
        size += done if piece.isascii() else 4 * done
        position += done
    return _memory(counts, size, shared)


def fitting_members(body: bytes, memory: int) -> tuple[dict[str, bytes], frozenset[str]]:
    """Return the text of each member of the JSON object in `body`, and the names of those that are too much: the rest,
    the smallest first, takes no more than MOST_MEMORY. `memory`: what all of them take. Raises NoMembers."""
    members = _split(body)
    if not members:
        return {}, frozenset()
    largest = max(members, key=lambda name: len(members[name]))
    sizes = {name: memory_of(value, MOST_MEMORY) for name, value in members.items() if name != largest}
    sizes[largest] = max(0, memory - sum(sizes.values()))  # looking at it again would take as long as all of this
    left, over = MOST_MEMORY, set()
    for name in sorted(members, key=sizes.__getitem__):
        if sizes[name] <= left:
            left -= sizes[name]
        else:
            over.add(name)
    return members, frozenset(over)


def outline(body: bytes) -> bytes:
    """Return the JSON object in `body`, in which a text replaces each large member; b"" for anything else.

    A run's state is in small members. Values that are not built cost no time: millions of them take a
    second or more, in which no other thread runs. What is in large members is not checked. A small `body` is returned
    as it is.
    """
    if len(body) <= OUTLINED:
        return body
    try:
        members = _split(body)
    except NoMembers:
        return b""
    left, kept = OUTLINED, dict[str, bytes]()
    for name in sorted(members, key=lambda each: len(members[each])):
        left -= len(members[name])
        kept[name] = members[name] if left >= 0 else b'"(%d bytes)"' % len(members[name])
    return b"{" + b",".join(json.dumps(name).encode() + b":" + kept[name] for name in members) + b"}"


def _split(body: bytes) -> dict[str, bytes]:
    """Return the text of each member. Raises NoMembers."""
    position = _after_space(body, 3 if body.startswith(b"\xef\xbb\xbf") else 0)
    if body[position : position + 1] != b"{":
        raise NoMembers("it is not a JSON object")
    members: dict[str, bytes] = {}
    position = _after_space(body, position + 1)
    while body[position : position + 1] != b"}":
        name = _ONE_STRING.match(body, position)
        if name is None or len(members) == MAX_MEMBERS:
            raise NoMembers("it is not JSON" if name is None else f"it has more than {MAX_MEMBERS} members")
        position = _after_space(body, name.end())
        if body[position : position + 1] != b":":
            raise NoMembers("it is not JSON")
        start = _after_space(body, position + 1)
        end = _end_of_value(body, start)
        members[json.loads(name[0].decode("utf-8", "replace"), strict=False)] = body[start:end]
        position = _after_space(body, end)
        if body[position : position + 1] == b",":
            position = _after_space(body, position + 1)
        elif body[position : position + 1] != b"}":
            raise NoMembers("it is not JSON")
    return members


def _after_space(body: bytes, position: int) -> int:
    found = _SPACE.match(body, position)
    return found.end() if found else position


def _end_of_value(body: bytes, start: int) -> int:
    """Return where the value at `start` ends. Raises NoMembers."""
    if body[start : start + 1] not in (b"[", b"{"):
        found = _ONE_STRING.match(body, start) or _SCALAR.match(body, start)
        if found is None:
            raise NoMembers("it is not JSON")
        return found.end()
    balanced, levels, position = _balanced(), 1, start + 1
    while levels:
        # A window at a time: while a pattern is matched no other thread runs, and one of them serves requests.
        window = min(position + _WINDOW, len(body))
        found = balanced.match(body, position, window)
        position = found.end() if found else position
        mark = body[position : position + 1]
        if mark in (b"[", b"{"):
            levels += 1
        elif mark in (b"]", b"}"):
            levels -= 1
        elif position == window < len(body):
            continue
        elif text := _ONE_STRING.match(body, position):  # one that the window has cut
            position = text.end()
            continue
        else:
            raise NoMembers("it is not JSON")
        if levels > MAX_LEVELS:
            raise NoMembers(f"it is nested deeper than {MAX_LEVELS} levels")
        position += 1
    return position
