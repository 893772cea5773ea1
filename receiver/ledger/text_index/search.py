"""Finding runs by words: from the one that changed last back, reading a bounded number of rows.

Chunks are looked at in groups: the first alone, then as many at once as are wanted by what it had, or promise few rows.
Whole words come before beginnings of words, which many words may have, and rare words before common ones, as the chunks
before have shown: the others are looked up only in the chunks that are left. Once a word turns out to be rare,
summaries tell in which chunks it may be (`summaries.py`), and no other one is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from receiver.domain.run import RunKey
from receiver.domain.words import Term, TextQuery
from receiver.ledger import bulk, statements
from receiver.ledger.expressions import contains_exactly
from receiver.ledger.schema import run_texts, run_words
from receiver.ledger.statements import BoundStatement, BuiltStatement
from receiver.ledger.text_index import summaries
from receiver.ledger.text_index.postings import CHUNK, chunk_of, numbers, union, up_to

# Chunks that are looked at together at the most, and for one search.
_GROUP: Final = 64
CHUNKS: Final = 512
# Runs of a chunk below which a word is rare; how many such words are looked up in summaries, and of how many chunks:
# 512 rows of a kB a word.
_SELDOM: Final = 4
_RAREST: Final = 3
_SUMMARIZED: Final = 8192
# Rows of words, and documents, after which a search ends for now.
WORDS: Final = 50_000
DOCUMENTS: Final = 2000
# Rows of words that one group should not have more of, and runs that are enough of it.
_MANY: Final = 4000
_ENOUGH: Final = 200
# Documents that one statement reads.
_AT_ONCE: Final = 500
# No word has a character as high.
_LAST: Final = "\U0010ffff"


class Match(NamedTuple):
    """A run that was found. `number`: where the search goes on behind it. `changed_at`: its `updated_at`."""

    number: int
    source: str
    run_id: str
    changed_at: float

    @property
    def key(self) -> RunKey:
        """The run."""
        return self.source, self.run_id


class Found(NamedTuple):
    """Runs that were found, the one that changed last first.

    `next`: the number before which the search goes on; None when there is nothing more. There may be more although
    fewer were found than asked for, and none at all.
    """

    matches: list[Match]
    next: int | None


def find(connection: sa.Connection, query: TextQuery, limit: int, before: int | None = None) -> Found:
    """Find up to `limit` runs, behind the number `before` when that is given."""
    ((lowest, highest),) = statements.run(connection, _BOUNDS.with_values())[0]
    if lowest is None:
        return Found([], None)
    top = highest if before is None else min(highest, before - 1)
    found, seen = list[Match](), 0
    walk = _Walk(connection, query, lowest, top)
    candidates = iter(walk)
    while some := list(islice(candidates, min(_AT_ONCE, max(2 * limit, 50)))):
        rows = _documents(connection, query, some)
        for number in some:
            if (match := rows.get(number)) is not None:
                found.append(match)
                if len(found) == limit:
                    return Found(found, number if number > lowest else None)
        seen += len(some)
        if seen >= DOCUMENTS:
            return Found(found, some[-1] if some[-1] > lowest else None)
    return Found(found, walk.next)


def find_all(connection: sa.Connection, query: TextQuery, limit: int) -> list[RunKey] | None:
    """Return all runs that are found; None when there are more than `limit`, or it would take long to tell."""
    found = find(connection, query, limit + 1)
    return None if found.next is not None or len(found.matches) > limit else [match.key for match in found.matches]


def _documents(connection: sa.Connection, query: TextQuery, some: list[int]) -> dict[int, Match]:
    """Return those of these runs that are there, and that have all phrases."""
    patterns = query.patterns if query.needs_document else ()
    given = {_pattern(place): pattern for place, pattern in enumerate(patterns)}
    (rows,) = statements.run(connection, _documents_with(len(given)).with_values(numbers=some, **given))
    return {row[0]: Match(*row) for row in rows}


def _pattern(place: int) -> str:
    return f"pattern_{place}"


@cache
def _documents_with(patterns: int) -> BuiltStatement:
    it = run_texts.c
    contained = [
        contains_exactly(it.document, sa.bindparam(_pattern(place), type_=sa.Text())) for place in range(patterns)
    ]
    rows = sa.select(it.number, it.source, it.run_id, it.changed_at).where(*contained)
    return BuiltStatement(lambda form: rows.where(bulk.among_given(form, it.number, "numbers")))


_BOUNDS: Final = BuiltStatement(
    lambda _: sa.select(
        *(
            sa.select(of_all(run_texts.c.number)).scalar_subquery().label(name)
            for name, of_all in (("lowest", sa.func.min), ("highest", sa.func.max))
        )
    )
)
_OF_WORD: Final = BuiltStatement(
    lambda form: sa.select(run_words.c.chunk, run_words.c.runs).where(
        bulk.among_given(form, run_words.c.chunk, "chunks"), run_words.c.word == sa.bindparam("word", type_=sa.Text())
    )
)
_OF_BEGINNING: Final = BuiltStatement(
    lambda form: sa.select(run_words.c.chunk, run_words.c.runs).where(
        bulk.among_given(form, run_words.c.chunk, "chunks"),
        run_words.c.word >= sa.bindparam("word", type_=sa.Text()),
        run_words.c.word < sa.bindparam("end", type_=sa.Text()),
    )
)


class _Walk:
    """The numbers of runs that have all words, the highest first. `next`: where the walk goes on, once it has ended."""

    def __init__(self, connection: sa.Connection, query: TextQuery, lowest: int, top: int) -> None:
        self._connection = connection
        # Of two beginnings of words, the longer one leaves less.
        self._terms = sorted(query.terms, key=lambda term: (term.prefix, -len(term.word)))
        self._density: dict[Term, float] = {}  # the runs of a chunk that have it, where it was looked up last
        self._top = top
        self._chunks: Sequence[int] = range(chunk_of(top), chunk_of(lowest) - 1, -1) if top >= lowest else range(0)
        self._narrowed = False
        self._ahead: tuple[Term, dict[int, list[bytes]]] | None = None  # what a term has in chunks that come next
        self._rows = 0
        self.next: int | None = None

    def __iter__(self) -> Iterator[int]:
        place, size = 0, 1
        while group := self._chunks[place : place + size]:
            rows, places, found = self._rows, 0, 0
            sets = self._look(list(group))
            for chunk in group:
                runs, last = sets.get(chunk, 0), CHUNK - 1
                if chunk == chunk_of(self._top):  # which may hardly be begun
                    runs, last = runs & up_to(self._top), self._top & (CHUNK - 1)
                places, found = places + last + 1, found + runs.bit_count()
                yield from numbers(chunk, runs)
            place += size
            if place < len(self._chunks) and (place >= CHUNKS or self._rows >= WORDS):
                self.next = (self._chunks[place] + 1) * CHUNK
                return
            if found * CHUNK < _SELDOM * places:
                self._narrow(place)
            by_rows = _MANY * len(group) // max(self._rows - rows, 1)
            enough = math.ceil(_ENOUGH * places / CHUNK / found) if found else _GROUP
            size = max(1, min(by_rows, enough, _GROUP))

    def _look(self, chunks: list[int]) -> dict[int, int]:
        """Return, by chunk, the runs that have all words. The next chunks are then asked for the rarest first."""
        found: dict[int, int] | None = None
        for term in self._terms:
            asked = chunks if found is None else list(found)
            of_term = {chunk: union(many) for chunk, many in self._written(term, asked).items()}
            self._density[term] = sum(runs.bit_count() for runs in of_term.values()) / len(asked)
            if found is not None:
                of_term = {chunk: both for chunk, runs in of_term.items() if (both := runs & found[chunk])}
            found = of_term
            if not found:
                break
        self._terms.sort(key=self._place)
        return found or {}

    def _written(self, term: Term, chunks: list[int]) -> dict[int, list[bytes]]:
        """Return what the term has in those of these chunks in which it is."""
        written: dict[int, list[bytes]] = {}
        if self._ahead is not None and self._ahead[0] == term:
            known, self._ahead = self._ahead[1], None
            written = {chunk: known[chunk] for chunk in chunks if known.get(chunk)}
            chunks = [chunk for chunk in chunks if chunk not in known]
        if chunks:
            self._add(written, statements.run(self._connection, self._query(term, chunks))[0])
        return written

    def _add(self, written: dict[int, list[bytes]], rows: Sequence[Any]) -> None:
        self._rows += len(rows)
        for chunk, runs in rows:
            written.setdefault(chunk, []).append(runs)

    def _place(self, term: Term) -> tuple[bool, float]:
        """Return where a term stands: the beginning of words that fewer than one run has reads hardly a row."""
        density = self._density.get(term, math.inf)
        return term.prefix and density >= 1, density

    def _query(self, term: Term, chunks: list[int]) -> BoundStatement:
        if term.prefix:
            return _OF_BEGINNING.with_values(chunks=chunks, word=term.word, end=term.word + _LAST)
        return _OF_WORD.with_values(chunks=chunks, word=term.word)

    def _narrow(self, place: int) -> None:
        """Leave out those of the chunks from `place` on in which a rare word can't be."""
        rest = self._chunks[place : place + _SUMMARIZED]
        if self._narrowed or len(rest) < summaries.GROUP or not isinstance(rest, range):
            return
        self._narrowed = True
        rare = [term for term in self._terms if self._density.get(term, _SELDOM) < _SELDOM and summaries.helps(term)]
        if rare:
            # The rarest is looked for in what has no summary by the same request.
            term, new = self._terms[0], list(summaries.without(rest))
            wanted, (rows,) = summaries.with_all(self._connection, rest, rare[:_RAREST], self._query(term, new))
            self._ahead = term, {chunk: [] for chunk in new}
            self._add(self._ahead[1], rows)
            self._chunks = [*self._chunks[:place], *wanted, *self._chunks[place + _SUMMARIZED :]]
