"""In which runs of a chunk a word is: sets of numbers as rows. Whoever changes them holds the lock of the index.

A set is an integer with a bit for each number of the chunk. It is written as the numbers themselves in any order, of
two bytes each, while those take less room than all the bits do.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.words import words_in
from receiver.ledger import bulk
from receiver.ledger.schema import run_words

# Numbers of a chunk.
CHUNK: Final = 16_384
_BITS: Final = CHUNK.bit_length() - 1
_BYTES: Final = CHUNK // 8
# Numbers from which on it is quicker to look at each byte of a set.
_FEW: Final = 200
# Words that one statement asks for.
_AT_ONCE: Final = 1000


def chunk_of(number: int) -> int:
    """Return the chunk that a number, which may be negative, belongs to."""
    return number >> _BITS


def numbers(chunk: int, runs: int) -> Iterator[int]:
    """Yield the numbers in `runs`, a set of this chunk, the highest first."""
    while runs:
        highest = runs.bit_length() - 1
        yield (chunk << _BITS) + highest
        runs ^= 1 << highest


def up_to(number: int) -> int:
    """Return the set of all numbers of `number`'s chunk that are not higher."""
    return (2 << (number & (CHUNK - 1))) - 1


def encode(runs: int) -> bytes:
    """Return a set as it is written."""
    if 2 * runs.bit_count() >= _BYTES:
        return runs.to_bytes(_BYTES, "little")
    places = array("H", _few(runs) if runs.bit_count() < _FEW else _many(runs))
    if sys.byteorder == "big":
        places.byteswap()
    return places.tobytes()


def _few(runs: int) -> Iterator[int]:
    while runs:
        lowest = runs & -runs
        yield lowest.bit_length() - 1
        runs ^= lowest


def _many(runs: int) -> Iterator[int]:
    for at, eight in enumerate(runs.to_bytes(_BYTES, "little")):
        if eight:
            yield from (8 * at + bit for bit in range(8) if eight >> bit & 1)


def decode(written: bytes) -> int:
    """Return the set that `encode` wrote."""
    return union((written,))


def union(many: Iterable[bytes]) -> int:
    """Return the union of sets as they are written."""
    runs, eights = 0, bytearray(_BYTES)
    for written in many:
        if len(written) == _BYTES:
            runs |= int.from_bytes(written, "little")
            continue
        places = array("H", written)
        if sys.byteorder == "big":
            places.byteswap()
        for place in places:
            eights[place >> 3] |= 1 << (place & 7)
    return runs | int.from_bytes(eights, "little")


def change(written: bytes, added: int, removed: int) -> bytes:
    """Return the set that was `written` with these numbers added, which it does not have, and those removed."""
    if not removed and len(written) + 2 * added.bit_count() < _BYTES:
        return written + encode(added)
    return encode(decode(written) & ~removed | added)


class WordChanges:
    """Words that runs got and lost, to be written together."""

    def __init__(self) -> None:
        self._added: dict[tuple[int, str], int] = {}
        self._removed: dict[tuple[int, str], int] = {}

    def add(self, number: int, document: str) -> None:
        """Note that the run with this number has the words of `document`."""
        self._note(self._added, number, document)

    def remove(self, number: int, document: str) -> None:
        """Note that nothing has this number any more, which had the words of `document`."""
        self._note(self._removed, number, document)

    @staticmethod
    def _note(noted: dict[tuple[int, str], int], number: int, document: str) -> None:
        chunk, bit = chunk_of(number), 1 << (number & (CHUNK - 1))
        for word in words_in(document):
            noted[chunk, word] = noted.get((chunk, word), 0) | bit

    def write(self, connection: sa.Connection) -> None:
        """Write them."""
        changed: list[dict[str, Any]] = []
        for chunk, keys in groupby(sorted({*self._added, *self._removed}), itemgetter(0)):
            emptied: list[str] = []
            words = (word for _, word in keys)
            while some := list(islice(words, _AT_ONCE)):
                found = _read(connection, chunk, some)
                for word in some:
                    before = found.get(word, b"")
                    runs = change(before, self._added.get((chunk, word), 0), self._removed.get((chunk, word), 0))
                    if runs and runs != before:
                        changed.append({"chunk": chunk, "word": word, "runs": runs})
                    elif before and not runs:
                        emptied.append(word)
            _delete(connection, chunk, emptied)
        _put(connection, changed)


_put: Final = bulk.Insert(
    run_words,
    lambda insert: insert.on_conflict_do_update(
        index_elements=[run_words.c.chunk, run_words.c.word], set_={"runs": insert.excluded.runs}
    ),
)


def _read(connection: sa.Connection, chunk: int, words: list[str]) -> dict[str, bytes]:
    query = sa.select(run_words.c.word, run_words.c.runs)
    query = query.where(run_words.c.chunk == chunk, bulk.among(connection, run_words.c.word, words))
    return {word: bytes(runs) for word, runs in connection.execute(query)}


def _delete(connection: sa.Connection, chunk: int, words: Iterable[str]) -> None:
    rest = iter(words)
    while some := list(islice(rest, _AT_ONCE)):
        connection.execute(
            sa.delete(run_words).where(run_words.c.chunk == chunk, bulk.among(connection, run_words.c.word, some))
        )
