"""In which runs of a chunk a word is: sets of numbers as rows. Whoever changes them holds the lock of the index.

A set is an integer with a bit for each number of the chunk. It is written as the numbers themselves in any order, of
two bytes each, while those take less room than all the bits do.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import sqlalchemy as sa

from receiver.ledger import bulk, statements
from receiver.ledger.schema import run_words
from receiver.ledger.statements import BoundStatement, BuiltStatement, StatementForm

# Numbers of a chunk. With 4,096, words that few runs share cost a search twice as much.
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
    return packed(_few(runs) if runs.bit_count() < _FEW else _many(runs))


def packed(places: Iterable[int]) -> bytes:
    """Return places as a set of few is written."""
    written = array("H", places)
    if sys.byteorder == "big":
        written.byteswap()
    return written.tobytes()


def unpacked(written: bytes) -> array[int]:
    """Return the places that `packed` has written, as they stand there."""
    places = array("H", written)
    if sys.byteorder == "big":
        places.byteswap()
    return places


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
        for place in unpacked(written):
            eights[place >> 3] |= 1 << (place & 7)
    return runs | int.from_bytes(eights, "little")


def change(written: bytes, added: bytes, removed: Sequence[int] = ()) -> bytes:
    """Return the set that was `written` with those places added that `packed` has made, none of which it has, and
    those removed."""
    if not removed and len(written) + len(added) < _BYTES:
        return written + added
    return encode(decode(written) & ~_bits(removed) | _bits(unpacked(added)))


def _bits(places: Iterable[int]) -> int:
    eights = bytearray(_BYTES)
    for place in places:
        eights[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(eights, "little")


# By chunk and word.
_Sets = Mapping[int, Mapping[str, bytes]]


class WordChanges:
    """Words that runs got and lost, to be written together."""

    def __init__(self) -> None:
        self._added: dict[int, dict[str, bytes]] = {}
        self._removed: dict[int, dict[str, list[int]]] = {}

    def add(self, number: int, words: Iterable[str]) -> None:
        """Note that the run with this number has these words."""
        place = packed((number & (CHUNK - 1),))
        of_chunk = self._added.setdefault(chunk_of(number), {})
        before = of_chunk.get
        for word in words:
            of_chunk[word] = before(word, b"") + place

    def without(self, said: Iterable[tuple[int, AbstractSet[str]]]) -> WordChanges:
        """Return these changes, and that nothing has those numbers any more, which had those words."""
        changes = WordChanges()
        changes._added = self._added
        for number, words in said:
            of_chunk = changes._removed.setdefault(chunk_of(number), {})
            for word in words:
                of_chunk.setdefault(word, []).append(number & (CHUNK - 1))
        return changes

    def reading(self, known: _Sets | None = None) -> Reading:
        """Return what reads the sets that are to be changed, but for those that are `known`."""
        known = known or {}
        return Reading([(chunk, self._words(chunk, known.get(chunk, {}))) for chunk in self._chunks()])

    def write(self, connection: sa.Connection, known: _Sets | None = None, *behind: BoundStatement) -> None:
        """Write them, and then run `behind`, which ends the transaction. `known`: sets that were read already."""
        known = known or {}
        reading = self.reading(known)
        read = reading.of_rows(statements.run(connection, *reading.asked))
        new, changed, emptied = _Columns(), _Columns(), list[tuple[int, list[str]]]()
        for chunk in self._chunks():
            sets = {**known.get(chunk, {}), **read.get(chunk, {})}
            added, removed = self._added.get(chunk, {}), self._removed.get(chunk, {})
            gone = list[str]()
            for word in self._words(chunk):
                before = sets[word]
                after = change(before, added.get(word, b""), removed.get(word, ()))
                if not before:
                    if after:
                        new.add(chunk, word, after)
                elif not after:
                    gone.append(word)
                elif after != before:
                    changed.add(chunk, word, after)
            emptied.append((chunk, gone))
        _delete(connection, emptied)
        asked = [
            into.of_columns(connection, rows)
            for into, rows in ((_insert, new.named), (put, changed.named))
            if rows["word"]
        ]
        statements.run(connection, *asked, *behind, commit=bool(behind))

    def _chunks(self) -> list[int]:
        return sorted({*self._added, *self._removed})

    def _words(self, chunk: int, but: Collection[str] = ()) -> list[str]:
        words = {*self._added.get(chunk, ()), *self._removed.get(chunk, ())}
        return sorted(words.difference(but) if but else words)


class _Columns:
    """Rows of words, by column."""

    def __init__(self) -> None:
        self.named: dict[str, list[Any]] = {"chunk": [], "word": [], "runs": []}
        self._all = tuple(self.named.values())

    def add(self, *values: Any) -> None:
        for column, value in zip(self._all, values, strict=True):
            column.append(value)


class Reading:
    """Reads the sets of the words of each chunk: by `asked`, statements that may be run with others."""

    def __init__(self, words: Iterable[tuple[int, Sequence[str]]]) -> None:
        self.asked = [
            _FIND.with_values(chunk=chunk, words=list(of_chunk[begin : begin + _AT_ONCE]))
            for chunk, of_chunk in words
            for begin in range(0, len(of_chunk), _AT_ONCE)
        ]

    def of_rows(self, rows: Iterable[Sequence[Any]]) -> _Sets:
        """Return the set of each word, given the rows of each of `asked`; an empty one for what is not there."""
        found: dict[int, dict[str, bytes]] = {}
        for asked, of_one in zip(self.asked, rows, strict=True):
            of_chunk = found.setdefault(asked.values["chunk"], {})
            of_chunk.update(dict.fromkeys(asked.values["words"], b""))
            of_chunk.update((word, bytes(runs)) for word, runs in of_one)
        return found


def _find(form: StatementForm) -> Any:
    chunk = run_words.c.chunk == sa.bindparam("chunk", type_=run_words.c.chunk.type)
    if form is not StatementForm.MANY:
        return sa.select(run_words.c.word, run_words.c.runs).where(
            chunk, bulk.among_given(form, run_words.c.word, "words")
        )
    # Looked up one by one: what has no statistics yet, as a new chunk, PostgreSQL would read whole.
    given = bulk.given_rows(words=run_words.c.word)
    found = sa.select(run_words.c.runs).where(chunk, run_words.c.word == given.c.words).limit(sa.literal_column("1"))
    runs = found.lateral("found")
    return sa.select(given.c.words, runs.c.runs).select_from(given.join(runs, sa.true()))


_FIND: Final = BuiltStatement(_find)


# What is not there is written without a look whether it is: that takes PostgreSQL two thirds of the time.
_insert: Final = bulk.Insert(run_words, lambda insert: insert)
put: Final = bulk.Insert(
    run_words,
    lambda insert: insert.on_conflict_do_update(
        index_elements=[run_words.c.chunk, run_words.c.word], set_={"runs": insert.excluded.runs}
    ),
)


def _delete(connection: sa.Connection, words: Iterable[tuple[int, Sequence[str]]]) -> None:
    for chunk, of_chunk in words:
        for begin in range(0, len(of_chunk), _AT_ONCE):
            some = bulk.among(connection, run_words.c.word, of_chunk[begin : begin + _AT_ONCE])
            connection.execute(sa.delete(run_words).where(run_words.c.chunk == chunk, some))
