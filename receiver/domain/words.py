"""Free text as words: of what a run says, and of what a person searches for. Pure; every database finds the same.

A word is letters and digits in a row, without regard to case and to how characters are composed. Chinese characters
and Japanese kana are words one by one, since nothing stands between the words of those languages. What a run says is
kept as one line a value, each word between spaces: then a word, the beginning of a word and a phrase are all found as
plain text in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
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
    query = TextQuery(tuple(dict.fromkeys(phrases)))
    if not phrases:
        raise BadSearch('it has no letter and no digit; write words, such as: timeout "login button" inv*')
    if len(query.terms) > MAX_TERMS:
        raise BadSearch(f"it has {len(query.terms)} words, and {MAX_TERMS} are the most: leave some out")
    return query


def words_of(text: str) -> list[str]:
    """Return the words of `text` in their order."""
    words = _ASCII_WORD.findall(text.lower()) if text.isascii() else _spaced(text).split()
    return [word[:MAX_WORD] for word in words]


def document(title: str | None, failure_reason: str | None, output: Any) -> str:
    """Return the words of a run, of its title, why it failed, and its output, as one line a value; "" for none.

    Of the output, which was redacted, the texts and numbers count, and not the names; nor what Skyvern writes again in
    every response, such as signed URLs. Only the first MAX_TEXT characters are read.
    """
    values = _values((title or "", failure_reason or "", output))
    return "\n".join(f" {' '.join(words)} " for value in values if (words := words_of(value)))


def _values(value: Any) -> dict[str, None]:
    """Return the texts and numbers in `value`, each once, in its order, up to MAX_TEXT; without recursion, for it may
    be nested deeply."""
    texts: dict[str, None] = {}
    left = MAX_TEXT
    rest: list[Iterator[Any]] = [iter(value)]
    while rest:
        for member in rest[-1]:
            if isinstance(member, dict | list):
                rest.append(_members(member) if isinstance(member, dict) else iter(member))
                break
            text = member if isinstance(member, str) else _number(member)
            if text in texts or text in ("", MASK):
                continue
            texts[text[:left]] = None
            left -= len(text) + 1
            if left <= 0:
                return texts
        else:
            rest.pop()
    return texts


def _members(value: Mapping[str, Any]) -> Iterator[Any]:
    for name, member in value.items():
        if name == FILES and isinstance(member, list):
            yield [_without(file, VOLATILE_IN_FILE) if isinstance(file, Mapping) else file for file in member]
        elif name not in VOLATILE:
            yield member


def _without(value: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: member for name, member in value.items() if name not in names}


def _number(value: Any) -> str:
    """Return the digits of a number; "" for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
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
            spaced = f" {char} " if category(char)[0] in "LN" else " "
        else:
            # Marks are parts of words: without them, no word of Hindi would be whole.
            spaced = char if category(char)[0] in "LNM" else " "
        if len(self) < _REMEMBERED:
            self[code] = spaced
        return spaced


_SPACED: Final = _Spaced()
