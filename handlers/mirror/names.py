"""Names that a payload proposes, made safe to use as one part of a key or path. Pure.

Whatever comes in, what goes out is one segment: not empty, no separator, no `.` or `..`, nothing that does not print,
and short enough in bytes. The rest of the name, its letters in any script and its ending, is left as people wrote it.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any

from handlers.support.templating import plain

MAX_NAME = 180
"""Bytes of a file's name: file systems take 255, and a temporary name needs room for its marks."""
MAX_PART = 120
"""Bytes of one value in a prefix."""

_SEPARATORS = '/\\:*?"<>|#%^`{}~'
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_ENDING = 16
_LOOKED_AT = 2048
"""Characters of a name's beginning that are looked at, and of its end 2 * _ENDING: a payload's can have millions."""


def safe_name(text: str, cap: int = MAX_NAME) -> str:
    """`text` as a name of one file, of at most `cap` bytes in UTF-8. The same text always gives the same name."""
    if len(text) > _LOOKED_AT + 2 * _ENDING:
        text = text[:_LOOKED_AT] + text[-2 * _ENDING :]
    kept = "".join(_safe(char) for char in unicodedata.normalize("NFC", text))
    name = _trim(" ".join(kept.split(" ")))
    if len(name.encode()) > cap:
        stem, dot, ending = name.rpartition(".")
        if not dot or not stem or len(ending.encode()) > _ENDING:
            stem, dot, ending = name, "", ""
        room = cap - len((dot + ending).encode())
        name = _trim(stem.encode()[:room].decode(errors="ignore").rstrip() + dot + ending)
    return name


def _safe(char: str) -> str:
    category = unicodedata.category(char)
    if category in _UNPRINTABLE or char in _SEPARATORS:
        return "_"
    return " " if category == "Zs" else char


def _trim(name: str) -> str:
    """No spaces around, no dots at the end; a dot in front would hide the file."""
    name = name.strip(" ").rstrip(" .")
    return "_" + name[1:] if name.startswith(".") else name or "_"


def key_part(value: Any) -> str:
    """A template's value as one part of a prefix: it can't leave its place, and no two become one by being changed.

    What had to be changed gets a mark of its original text, so that `a/b` and `a_b` stay two runs.
    """
    text = plain(value)
    name = safe_name(text, MAX_PART)
    if name == text or not text:
        return name
    mark = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe_name(name, MAX_PART - 9)}-{mark}"


class UsedNames:
    """The names that are used in one directory. Two that differ only in case are one on many disks."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {name.casefold() for name in names}
        self._numbers: dict[str, int] = {}  # by name: the last that was given, for thousands may have the same

    def give(self, name: str) -> str:
        """`name`, or `name` with the first free number before its ending."""
        stem, dot, ending = name.rpartition(".")
        if not dot or not stem:
            stem, dot, ending = name, "", ""
        number = self._numbers.get(name.casefold(), 1)
        given = name
        while given.casefold() in self._names:
            number += 1
            given = f"{stem}-{number}{dot}{ending}"
        self._names.add(given.casefold())
        self._numbers[name.casefold()] = number
        return given
