"""Free text as words: of what a run says, and of what a person searches for. Pure; every database finds the same.

A word is letters and digits in a row, without regard to case and to how characters are composed. Chinese characters
and Japanese kana are words one by one, since nothing stands between the words of those languages. What a run says is
kept as one line a value, each word between spaces: then a word, the beginning of a word and a phrase are all found as
plain text in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, NamedTuple
from unicodedata import category, normalize

from receiver.domain.deduplication import FILES, VOLATILE, VOLATILE_IN_FILE
from receiver.domain.redaction import MASK

# Characters of a word that count; what follows them does not.
MAX_WORD: Final = 64
# Characters of a run that are looked at.
MAX_TEXT: Final = 32 << 10
# Words that one search may have.
MAX_TERMS: Final = 16

_ASCII_WORD: Final = re.compile(r"[a-z0-9]+")
# Stands between values until their words are found.
_END: Final = "\0"
_BETWEEN: Final = f" {_END} "
# Values of a run that are read without a look at how long they are; more are read one by one.
_FEW: Final = 4096
# UTF-8 of values whose words have spaces between them or are ASCII, to lines of words.
_PLAIN: Final = bytes(
    byte
    if byte > 127
    else ord("\n")
    if chr(byte) == _END
    else ord(chr(byte).lower())
    if chr(byte).isalnum()
    else ord(" ")
    for byte in range(256)
)
_TOO_LONG: Final = re.compile(rf"([^ \n]{{{MAX_WORD}}})[^ \n]+")
_OBJECTS: Final = {dict}
# Whether all members of an object count: no member has such a name.
_PLAIN_NAMES: Final = frozenset({FILES, *VOLATILE}).isdisjoint
_PIECE: Final = re.compile(r'"(?P<quoted>[^"]*)(?P<closed>"?)(?P<star>\*?)|(?P<bare>[^\s"]+)')
# Han and kana, after normalisation: the blocks of Unicode 15.
_SINGLE: Final = (
    *((0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    *((0x1AFF0, 0x1B16F), (0x20000, 0x323AF)),
)
# Characters whose kind is remembered. A text of all of Unicode does not take memory for good.
_REMEMBERED: Final = 20_000


class BadSearch(ValueError):
    """What was searched for can't be. Its text says why, and what would be right."""


@dataclass(frozen=True, slots=True)
class Term:
    """A word that is searched for. `prefix`: also find words with this beginning."""

    word: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class TextQuery:
    """What a person searches for. `phrases`: all must be found, each one's words side by side in one value."""

    phrases: tuple[tuple[Term, ...], ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        """The words of all phrases, each once: what a run must have to be looked at more closely."""
        return tuple(dict.fromkeys(term for phrase in self.phrases for term in phrase))

    @property
    def patterns(self) -> tuple[str, ...]:
        """The texts which the `document` of each run that is found contains."""
        return tuple(_pattern(phrase) for phrase in self.phrases)

    @property
    def needs_document(self) -> bool:
        """Whether a run that has all words may still not be one that is searched for."""
        return any(len(phrase) > 1 for phrase in self.phrases)

    def matches(self, document: str) -> bool:
        """Whether a run is found. `document`: as `document` made it."""
        return all(pattern in document for pattern in self.patterns)


def parse_query(text: str) -> TextQuery:
    """Return what a person searches for with `text`. Raises BadSearch when that is nothing, or too much.

    Words are separated by spaces, and all must be found; `"several words"` must stand side by side, and so must those
    of `foo-bar`. A word that ends in `*`, and the last one unless it is quoted, is the beginning of a word.
    """
    pieces = list(_PIECE.finditer(text))
    phrases: list[tuple[Term, ...]] = []
    for number, piece in enumerate(pieces, start=1):
        if (bare := piece["bare"]) is not None:
            words, prefix = words_of(bare), bare.endswith("*") or number == len(pieces)
        else:
            words, prefix = words_of(piece["quoted"]), bool(piece["star"]) or not piece["closed"]
        if words:
            last = len(words) - 1
            phrases.append(tuple(Term(word, prefix and place == last) for place, word in enumerate(words)))
    found = TextQuery(tuple(dict.fromkeys(phrases)))
    if not phrases:
        raise BadSearch('it has no letter and no digit; write words, such as: timeout "login button" inv*')
    if len(found.terms) > MAX_TERMS:
        raise BadSearch(f"it has {len(found.terms)} words, and {MAX_TERMS} are the most: leave some out")
    return found


def words_of(text: str) -> list[str]:
    """Return the words of `text` in their order."""
    words = _ASCII_WORD.findall(text.lower()) if text.isascii() else _spaced(text).split()
    return [word[:MAX_WORD] for word in words]


class Said(NamedTuple):
    """What a run says: its words as one line a value, "" when it has none; and each word once."""

    document: str
    words: AbstractSet[str]


def said(title: str | None, failure_reason: str | None, output: Any) -> Said:
    """Return the words of a run: of its title, why it failed, and its output.

    Of the output, which was redacted, the texts and numbers count, and not the names; nor what Skyvern writes again in
    every response, such as signed URLs. Only the first MAX_TEXT characters are looked at.
    """
    values = (title or "", failure_reason or "", output)
    found: dict[str, None] = {}  # as a set in the order in which they were added
    try:
        _collect(values, found)
        text = _BETWEEN.join(found)
    except (_Many, RecursionError, ValueError):
        text = ""
    if not text or len(text) > MAX_TEXT:
        found = _values(values)
        text = _BETWEEN.join(found)
    if not text.isascii() or text.count(_END) != len(found) - 1:
        plain = (value.replace(_END, " ") for value in found)
        text = _BETWEEN.join(value if value.isascii() else _spaced(value) for value in plain)
    # All values in one pass, by calls that are loops in C: one by one they took three times as long.
    lines = f" {text} ".encode().translate(_PLAIN).decode()
    for many, one in (("  ", " "), ("\n \n", "\n")):
        while many in lines:
            lines = lines.replace(many, one)
    lines = lines.removeprefix(" \n").removesuffix("\n ")
    words = words_in(lines)
    if not words:
        return Said("", words)
    if max(map(len, words)) > MAX_WORD:
        lines = _TOO_LONG.sub(r"\1", lines)
        words = words_in(lines)
    return Said(lines, words)


def document(title: str | None, failure_reason: str | None, output: Any) -> str:
    """Return the words of a run as one line a value; see `said`."""
    return said(title, failure_reason, output).document


def words_in(document: str) -> set[str]:
    """Return the words of a run's document, each once."""
    return set(document.split())


class _Many(Exception):
    """There are more values than `_collect` reads."""


def _collect(members: Iterable[Any], found: dict[str, None]) -> None:
    """Add the texts and numbers in `members` to `found`, in their order: `_values` of what most runs say, for half the
    time. Raises _Many, RecursionError, and ValueError for an integer of more digits than Python writes."""
    for member in members:
        kind = type(member)
        if kind is str:
            if member != MASK:
                found[member] = None
        elif kind is int or kind is float:
            found[str(member)] = None
        elif kind is dict:
            _collect(member.values() if _PLAIN_NAMES(member) else _members(member), found)
        elif kind is list:
            if len(member) > _FEW or len(found) > _FEW:
                raise _Many
            alike = set(map(type, member)) == _OBJECTS and all(map(_PLAIN_NAMES, member))  # as in most lists
            _collect(chain.from_iterable(map(dict.values, member)) if alike else member, found)


def _values(value: Any) -> dict[str, None]:
    """Return the texts and numbers in `value`, each once, in its order, up to MAX_TEXT; without recursion, for it may
    be nested deeply."""
    found: dict[str, None] = {}
    left = MAX_TEXT
    rest: list[Iterator[Any]] = [iter(value)]
    while rest:
        for member in rest[-1]:
            kind = type(member)
            if kind is str:
                if member == MASK:
                    continue
                text = member
            elif kind is int or kind is float:
                text = _number(member)
            elif kind is dict:
                rest.append(iter(member.values() if _PLAIN_NAMES(member) else _members(member)))
                break
            elif kind is list:
                rest.append(iter(member))
                break
            else:
                continue
            if text in found:
                continue
            found[text[:left]] = None
            left -= len(text) + 1
            if left <= 0:
                return found
        else:
            rest.pop()
    return found


def _members(value: Mapping[str, Any]) -> Iterator[Any]:
    for name, member in value.items():
        if name == FILES and isinstance(member, list):
            yield [_without(file, VOLATILE_IN_FILE) if isinstance(file, Mapping) else file for file in member]
        elif name not in VOLATILE:
            yield member


def _without(value: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: member for name, member in value.items() if name not in names}


def _number(value: float) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python writes
        return ""


def _spaced(text: str) -> str:
    """Return `text` in one form and case, with spaces between its words."""
    return normalize("NFKC", normalize("NFKC", text).casefold()).translate(_SPACED)


def _pattern(phrase: tuple[Term, ...]) -> str:
    words = " ".join(term.word for term in phrase)
    return f" {words}" if phrase[-1].prefix else f" {words} "


class _Spaced(dict[int, str]):
    """Characters as `str.translate` asks for them: of words as they are, of other things a space."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if any(first <= code <= last for first, last in _SINGLE):
            found = f" {char} " if category(char)[0] in "LN" else " "
        else:
            # Marks are parts of words: without them, no word of Hindi would be whole.
            found = char if category(char)[0] in "LNM" else " "
        if len(self) < _REMEMBERED:
            self[code] = found
        return found


_SPACED: Final = _Spaced()
