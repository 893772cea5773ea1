"""The memory that the values of a JSON body take, and its members without building their values. Pure.

A body of 16 MiB may hold five million lists: `[[],[],…]` takes 450 MB as Python's values, and half as much again while
they are used. An ordinary one takes four to ten times its length. So the memory of a large body is estimated first, by
counting a few bytes: in 20 ms for 16 MiB. The members of a body that takes too much are separated, and the small ones
are read.

Sizes are those of CPython 3.11 on 64 bits: of list 56 bytes and 8 an item, of dict 184 for up to five keys, of str 49
and its text, of a number 24 to 32.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Final

import msgspec

# Most bytes that the values of one body may take.
MOST_MEMORY: Final = 160 << 20
# Bytes of a body up to which it never takes too much: an empty object takes 27 times its text.
SMALL: Final = 4 << 20
# Bytes of the small members that `outline` keeps, together.
OUTLINED: Final = 256 << 10

# Its end may be missing: a search for it would start again at each escaped quote, and take hours.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?+', re.DOTALL)
_MARKS: Final = (b"[", b"[]", b"{", b"{}", b",", b":", b'"')
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class NoMembers(ValueError):
    """The members of a body cannot be separated, for the given reason."""


def too_much(body: bytes) -> bool:
    """Return whether the values of `body` take more than MOST_MEMORY."""
    if len(body) <= SMALL or memory_of(body, body) <= MOST_MEMORY:
        return False
    if body.count(b'"') - body.count(b'\\"') > len(body) / 16:  # removing millions of texts takes seconds
        return True
    return memory_of(body, _STRING.sub(b'""', body)) > MOST_MEMORY


def memory_of(text: bytes, marks: bytes) -> int:
    """Return about how many bytes the values of JSON `text` take. `marks`: the same JSON, where marks in texts may be
    missing; those there count as values."""
    lists, empty_lists, objects, empty_objects, commas, colons, quotes = map(marks.count, _MARKS)
    strings = max(0, (quotes + 1) // 2 - colons)  # the rest are keys, each of which is kept once
    numbers = max(0, commas + 1 - strings - empty_lists - empty_objects)
    return (
        64 * lists
        + 184 * objects
        - 120 * empty_objects
        + 40 * max(0, colons - 3 * objects)
        + 8 * commas
        + 56 * strings
        + 28 * numbers
        + (len(text) if text.isascii() else 4 * len(text))
    )


def outline(body: bytes, most: int = OUTLINED) -> tuple[bytes, tuple[str, ...]]:
    """Return the JSON object in `body`, in which a text replaces each large member, and their names, sorted.

    The others, the smallest first, have at most `most` bytes together: a run's state is in small members, and building
    millions of values takes a second or more, in which no other thread runs. The same member has the same text. Raises
    NoMembers.
    """
    if len(body) <= most:
        return body, ()
    try:
        members = {name: bytes(raw) for name, raw in _OBJECT.decode(body.removeprefix(b"\xef\xbb\xbf")).items()}
    except msgspec.ValidationError:
        raise NoMembers("it is not a JSON object") from None
    except (msgspec.DecodeError, UnicodeError):
        raise NoMembers("it is not JSON") from None
    except RecursionError:
        raise NoMembers("it is nested too deeply") from None
    large = []
    for name in sorted(members, key=lambda each: len(members[each])):
        most -= len(members[name])
        if most < 0:
            text = members[name]
            large.append(name)
            members[name] = b'"[%d bytes, not read; SHA-256 %b]"' % (len(text), sha256(text).hexdigest().encode())
    small = b",".join(json.dumps(name).encode() + b":" + text for name, text in members.items())
    return b"{" + small + b"}", tuple(sorted(large))


def state_of(body: bytes) -> bytes:
    """Return the outline of `body`; a body whose members can't be separated as it is, or b"" if it takes too much
    memory."""
    try:
        return outline(body)[0]
    except NoMembers:
        return b"" if too_much(body) else body
