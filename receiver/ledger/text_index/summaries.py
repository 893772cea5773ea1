"""Which full chunks may have a word: what a search reads, in place of a look into each chunk, for a word that few runs
have.

Sixteen chunks in a row that get no run any more are a group, and the clock writes its summary. From each word, and from
some beginnings of it, a hash is made: 13 bits of it name one of 8,192 rows, which has 12 others of the hash and the
chunk as one number of two bytes, in their order. So a row of each group tells in which chunks a word may be. A chunk in
which it is not is named wrongly one time in a hundred; one in which it is, always. A word that a chunk loses stays in
the summary as those bits, until the last run of its group has gone.

The rows are among those of words, under chunks that no run has: they are sets of numbers as well, and a release that
does not know them never reads them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import repeat
from typing import Any, Final
from zlib import crc32

import sqlalchemy as sa

from receiver.domain.words import Term
from receiver.ledger import bulk, statements
from receiver.ledger.engine import Ledger
from receiver.ledger.schema import run_texts, run_words
from receiver.ledger.statements import BoundStatement, BuiltStatement
from receiver.ledger.text_index.postings import chunk_of, packed, put, unpacked
from receiver.ledger.text_index.state import IndexState

# Bits of a chunk's number that are its place in the group.
_GROUP_BITS: Final = 4
GROUP: Final = 1 << _GROUP_BITS
_ALL: Final = (1 << GROUP) - 1
# Rows of a summary, and the bits of a hash that stand in them, which go with the place into two bytes.
ROWS: Final = 8192
_MARK: Final = (1 << 16 - _GROUP_BITS) - 1
# Bytes of a word after which its beginning is in the summary: a search ends in the beginning of a word.
_BEGINNINGS: Final = (4, 6, 8, 12, 20)
# The chunk of a summary's first row; before it there is one for groups that have too much for a summary.
_FIRST: Final = -(1 << 62)
_NONE: Final = _FIRST - 1
# Numbers of a group's summary, of two bytes each, that are kept in memory while it is made.
MOST: Final = 8 << 20
# Words that are read, and rows that are written, at once.
_WORDS: Final = 16_384
_WRITTEN: Final = 1024
# The names of groups sort as they do, negative ones too.
_ZERO: Final = 1 << 46


def _group_of(chunk: int) -> int:
    return chunk >> _GROUP_BITS


def _name(group: int) -> str:
    return f"{group + _ZERO:012x}"


def _group(name: str) -> int:
    return int(name, 16) - _ZERO


def _row(its_hash: int) -> int:
    return its_hash * ROWS >> 32


def _last() -> int:
    """Return the chunk of a summary's last row, which is written last."""
    return _FIRST + ROWS - 1


def _hash_of(term: Term) -> int | None:
    """Return the hash by which a summary knows the term; None for a beginning that is too short."""
    word = term.word.encode()
    longest = max((size for size in _BEGINNINGS if size <= len(word)), default=0)
    if term.prefix or longest == len(word):
        return crc32(word[:longest], 1) if longest else None
    return crc32(word)


def _hashes(words: Collection[bytes]) -> Iterator[int]:
    """Return the hashes by which terms may ask for these words."""
    yield from map(crc32, [word for word in words if len(word) not in _BEGINNINGS])
    for size in _BEGINNINGS:
        yield from map(crc32, {word[:size] for word in words if len(word) >= size}, repeat(1))


def helps(term: Term) -> bool:
    """Whether summaries tell anything of the term."""
    return _hash_of(term) is not None


def without(chunks: range) -> range:
    """Return those of `chunks`, which go down and begin with those that get runs now, of which there is no summary yet:
    they are of a group that is not full, or may have been until now."""
    return chunks[: (chunks[0] & GROUP - 1) + 1]


def with_all(
    connection: sa.Connection, chunks: range, terms: Iterable[Term], *also: BoundStatement
) -> tuple[list[int], list[Sequence[Any]]]:
    """Return those of `chunks`, which go down, that may have all terms; and the rows of what is `also` asked, in the
    same request."""
    hashes = [found for term in terms if (found := _hash_of(term)) is not None]
    places = dict.fromkeys(range(_group_of(chunks[0]), _group_of(chunks[-1]) - 1, -1), _ALL)
    asked = _READ.with_values(
        rows=sorted({_FIRST + _row(each) for each in hashes}),
        first=_name(_group_of(chunks[-1])),
        last=_name(_group_of(chunks[0])),
    )
    written: dict[int, list[tuple[int, array[int]]]] = {}
    rows, *others = statements.run(connection, asked, *also)
    for row, name, numbers in rows:
        written.setdefault(row, []).append((_group(name), unpacked(numbers)))
    for each in hashes:
        for group, numbers in written.get(_FIRST + _row(each), ()):
            places[group] &= _places(numbers, each)
    wanted = [
        group << _GROUP_BITS | place
        for group, found in places.items()
        if found
        for place in range(GROUP - 1, -1, -1)
        if found >> place & 1
    ]
    return [chunk for chunk in wanted if chunks[-1] <= chunk <= chunks[0]], others


def _places(numbers: array[int], its_hash: int) -> int:
    """Return the places of the chunks, as bits, that this row tells of a hash."""
    mark = (its_hash & _MARK) << _GROUP_BITS
    found = 0
    for at in range(bisect_left(numbers, mark), len(numbers)):
        if numbers[at] >= mark + GROUP:
            break
        found |= 1 << (numbers[at] - mark)
    return found


_READ: Final = BuiltStatement(
    lambda form: sa.select(run_words.c.chunk, run_words.c.word, run_words.c.runs).where(
        bulk.among_given(form, run_words.c.chunk, "rows"),
        run_words.c.word >= sa.bindparam("first", type_=sa.Text()),
        run_words.c.word <= sa.bindparam("last", type_=sa.Text()),
    )
)


class Summarizer:
    """Writes the summaries that a ledger lacks, the newest first, for one process.

    It needs no lock: what a full chunk has of words only becomes less, so a summary that was made meanwhile names too
    many chunks, and never too few. Two that are at the same one write the same.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._made: _Summary | None = None
        self._done: range | None = None  # the groups of which all had one

    def step(self, state: IndexState) -> bool:
        """Do a piece of what there is to do, some 20 ms of it. Returns whether there was anything."""
        if self._made is None:
            full = _full(state)
            if not full or full == self._done:
                return False
            group = self._ledger.read(lambda connection: _lacking(connection, full), transaction=False)
            if group is None:
                self._done = full
                return False
            self._made = _Summary(group)
        made = self._made
        if made.is_read:
            self._ledger.write(made.write)
            if made.is_written:
                self._made = None
        else:
            self._ledger.read(made.read, transaction=False)
        return True


def _full(state: IndexState) -> range:
    """Return the groups that get no run any more: numbers go up, and go down while runs of before the index are read.

    The group with the lowest of those is never full.
    """
    begins_with_first = state.oldest == 1 and state.backfilled is None
    lowest = 0 if begins_with_first else _group_of(chunk_of(state.oldest - 1)) + 1
    return range(lowest, _group_of(chunk_of(state.newest)))


def _lacking(connection: sa.Connection, full: range) -> int | None:
    """Return the newest of these groups that has runs, and no summary."""
    lowest = connection.execute(sa.select(sa.func.min(run_texts.c.number))).scalar()
    if lowest is None:
        return None
    done = set(_named(connection, [_last(), _NONE]))
    groups = range(full[-1], max(full[0], _group_of(chunk_of(lowest))) - 1, -1)
    return next((group for group in groups if group not in done), None)


def _named(connection: sa.Connection, rows: Sequence[int]) -> list[int]:
    """Return the groups that have one of these rows."""
    query = sa.select(run_words.c.word).where(bulk.among(connection, run_words.c.chunk, rows))
    return [_group(name) for name in connection.execute(query).scalars()]


class _Summary:
    """The summary of a group while it is made: first its words are read, then its rows are written."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._rows = [array("H") for _ in range(ROWS)]
        self._size = 0
        self._place = 0  # of the chunk that is read
        self._after = ""  # the word behind which that goes on
        self._next_row = 0

    @property
    def is_read(self) -> bool:
        """Whether all words have been read, or too many."""
        return self._place == GROUP or self._size > MOST

    @property
    def is_written(self) -> bool:
        """Whether all rows have been written."""
        return self._next_row == ROWS

    def read(self, connection: sa.Connection) -> None:
        """Read some words more."""
        chunk = self._group << _GROUP_BITS | self._place
        asked = _some_words(_WORDS).with_values(chunk=chunk, after=self._after)
        ((some, last),) = statements.run(connection, asked)[0]
        words = some.encode().split() if some else []
        if len(words) < _WORDS:
            self._place, self._after = self._place + 1, ""
        else:
            self._after = last
        self._add(words, chunk & (GROUP - 1))

    def _add(self, words: Collection[bytes], place: int) -> None:
        rows, by = self._rows, ROWS
        for each in _hashes(words):
            rows[each * by >> 32].append((each & _MARK) << _GROUP_BITS | place)
            self._size += 1

    def write(self, connection: sa.Connection) -> None:
        """Write some rows more, in a transaction of their own: each is whole by itself."""
        if self._size > MOST:
            self._put(connection, [_NONE], [b""])
            self._next_row = ROWS
            return
        some = range(self._next_row, min(self._next_row + _WRITTEN, ROWS))
        sets = [packed(sorted(set(self._rows[row]))) for row in some]
        self._put(connection, [_FIRST + row for row in some], sets)
        self._next_row = some.stop

    def _put(self, connection: sa.Connection, rows: list[int], sets: list[bytes]) -> None:
        columns: dict[str, list[Any]] = {"chunk": rows, "word": [_name(self._group)] * len(rows), "runs": sets}
        statements.run(connection, put.of_columns(connection, columns))


@cache
def _some_words(count: int) -> BuiltStatement:
    """Return the query for some words of a chunk as one text: as rows they would take the driver longer than all the
    rest."""
    some = (
        sa.select(run_words.c.word)
        .where(
            run_words.c.chunk == sa.bindparam("chunk", type_=run_words.c.chunk.type),
            run_words.c.word > sa.bindparam("after", type_=sa.Text()),
        )
        .order_by(run_words.c.word)
        .limit(sa.literal_column(str(count)))
        .subquery()
    )
    space: Any = sa.literal_column("' '")
    joined = sa.func.aggregate_strings(some.c.word, space)
    return BuiltStatement(lambda _: sa.select(joined.label("words"), sa.func.max(some.c.word).label("last")))


def remove_of_none(connection: sa.Connection) -> None:
    """Remove the summaries of groups that have no run any more, the lowest ones."""
    lowest = connection.execute(sa.select(sa.func.min(run_texts.c.number))).scalar()
    for group in set(_named(connection, [_FIRST, _last(), _NONE])):
        if lowest is not None and group >= _group_of(chunk_of(lowest)):
            continue
        for first in range(_NONE, _last() + 1, _WRITTEN):
            rows = bulk.among(connection, run_words.c.chunk, list(range(first, first + _WRITTEN)))
            connection.execute(sa.delete(run_words).where(rows, run_words.c.word == _name(group)))
