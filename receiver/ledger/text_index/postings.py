"""In which runs of a chunk a word is: sets of numbers as rows. Whoever changes them holds the lock of the index.

A set is an integer with a bit for each number of the chunk. It is written as the numbers themselves in any order, of
two bytes each, while those take less room than all the bits do.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import sqlalchemy as sa

from receiver.domain.words import words_in
from receiver.ledger import bulk, requests
from receiver.ledger.requests import Asked, BuiltStatement, StatementForm
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
    return _pack(_few(runs) if runs.bit_count() < _FEW else _many(runs))


def _pack(places: Iterable[int]) -> bytes:
    written = array("H", places)
    if sys.byteorder == "big":
        written.byteswap()
    return written.tobytes()


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


def change(written: bytes, added: Sequence[int], removed: Sequence[int]) -> bytes:
    """Return the set that was `written` with these places added, which it does not have, and those removed."""
    if not removed and len(written) + 2 * len(added) < _BYTES:
        return written + _pack(added)
    return encode(decode(written) & ~_bits(removed) | _bits(added))


def _bits(places: Iterable[int]) -> int:
    eights = bytearray(_BYTES)
    for place in places:
        eights[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(eights, "little")


# Chunk and word.
Key = tuple[int, str]


class WordChanges:
    """Words that runs got and lost, to be written together."""

    def __init__(self) -> None:
        self._added: dict[Key, list[int]] = {}
        self._removed: dict[Key, list[int]] = {}

    def add(self, number: int, document: str) -> None:
        """Note that the run with this number has the words of `document`."""
        self._note(self._added, number, document)

    def remove(self, number: int, document: str) -> None:
        """Note that nothing has this number any more, which had the words of `document`."""
        self._note(self._removed, number, document)

    @staticmethod
    def _note(noted: dict[Key, list[int]], number: int, document: str) -> None:
        chunk, place = chunk_of(number), number & (CHUNK - 1)
        for word in words_in(document):
            noted.setdefault((chunk, word), []).append(place)

    def reading(self, known: Collection[Key] = ()) -> Reading:
        """Return what reads the sets that are to be changed, but for those that are `known`."""
        return Reading(sorted(key for key in {*self._added, *self._removed} if key not in known))

    def write(self, connection: sa.Connection, found: Mapping[Key, bytes] = {}, *behind: Asked) -> None:
        """Write them, and then run `behind`, which ends the transaction. `found`: sets that were read already."""
        reading = self.reading(found)
        found = {**found, **reading.of_rows(requests.run(connection, *reading.asked))}
        changed: list[dict[str, Any]] = []
        emptied: list[Key] = []
        for key in sorted({*self._added, *self._removed}):
            before = found[key]
            runs = change(before, self._added.get(key, ()), self._removed.get(key, ()))
            if runs and runs != before:
                changed.append({"chunk": key[0], "word": key[1], "runs": runs})
            elif before and not runs:
                emptied.append(key)
        _delete(connection, emptied)
        requests.run(connection, *([_put.of(connection, changed)] if changed else []), *behind, commit=bool(behind))


class Reading:
    """Reads the sets of `keys`, which are sorted: by `asked`, statements that may be run with others."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys
        self.asked = [_FIND.with_values(chunk=chunk, words=words) for chunk, words in _by_chunk(keys)]

    def of_rows(self, rows: Iterable[Sequence[Any]]) -> dict[Key, bytes]:
        """Return the set of each key, given the rows of each of `asked`; an empty one for what is not there."""
        found = {
            (asked.values["chunk"], word): bytes(runs)
            for asked, of_one in zip(self.asked, rows, strict=True)
            for word, runs in of_one
            if runs is not None
        }
        return {key: found.get(key, b"") for key in self._keys}


def _find(form: StatementForm) -> Any:
    chunk = run_words.c.chunk == sa.bindparam("chunk", type_=run_words.c.chunk.type)
    if form is not StatementForm.MANY:
        return sa.select(run_words.c.word, run_words.c.runs).where(
            chunk, bulk.among_given(form, run_words.c.word, "words")
        )
    # Looked up one by one: what has no statistics yet, as a new chunk, PostgreSQL would read whole.
    given = bulk.given_rows(words=run_words.c.word)
    runs = sa.select(run_words.c.runs).where(chunk, run_words.c.word == given.c.words)
    return sa.select(given.c.words, runs.scalar_subquery().label("runs"))


_FIND: Final = BuiltStatement(_find)


_put: Final = bulk.Insert(
    run_words,
    lambda insert: insert.on_conflict_do_update(
        index_elements=[run_words.c.chunk, run_words.c.word], set_={"runs": insert.excluded.runs}
    ),
)


def _delete(connection: sa.Connection, keys: Iterable[Key]) -> None:
    for chunk, words in _by_chunk(keys):
        of_chunk = run_words.c.chunk == chunk
        connection.execute(sa.delete(run_words).where(of_chunk, bulk.among(connection, run_words.c.word, words)))


def _by_chunk(keys: Iterable[Key]) -> Iterator[tuple[int, list[str]]]:
    """Yield the words of each chunk, as many as one statement takes at a time. `keys` are sorted."""
    for chunk, of_chunk in groupby(keys, itemgetter(0)):
        words = [word for _, word in of_chunk]
        for begin in range(0, len(words), _AT_ONCE):
            yield chunk, words[begin : begin + _AT_ONCE]
