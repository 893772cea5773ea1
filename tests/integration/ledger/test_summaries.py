"""Summaries of full chunks, on both databases: a search finds with them what it finds without, and looks at less."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from receiver.domain.redaction import Redactor
from receiver.domain.words import Term, parse_query, words_in
from receiver.ledger import Ledger, statements
from receiver.ledger.schema import run_texts, run_words
from receiver.ledger.text_index import indexing, search, state, summaries
from receiver.ledger.text_index.indexing import TextIndexer
from receiver.ledger.text_index.postings import CHUNK, WordChanges
from receiver.ledger.text_index.state import IndexState
from receiver.ledger.text_index.summaries import Summarizer
from tests.support.ledger import NOW

# A run in each of these chunks: two groups and a half, and one with negative numbers. The last two groups get more.
CHUNKS = range(-16, 40)
GROUPS = [1, 0, -1]
SEARCHES = (
    *('"rare23"', "rare23", "rare2", "rar", "ra", "r", '"rare"', "nowhere", '"nowhere"', "东京", '"东京7"', "common"),
    *('"common rare23"', "common rare2", "odd rare3", '"odd common"', "odd", "even* odd", '"rare-5" common', "Ünlü"),
)


def said(chunk: int) -> str:
    number = f"rare{chunk}" if chunk >= 0 else f"rare {-chunk}"
    return f" common {number} {'odd' if chunk % 2 else 'even'} {'ünlü ' if chunk == 3 else ''}"


@pytest.fixture
def full(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger with a run in each chunk, as if all other numbers were those of runs that changed since; and few rows a
    summary."""
    monkeypatch.setattr(summaries, "ROWS", 64)
    monkeypatch.setattr(summaries, "_WRITTEN", 16)

    def fill(connection: sa.Connection) -> None:
        state.begin(connection)
        known = state.read(connection)
        assert known is not None
        numbered = replace(known, newest=CHUNKS[-1] * CHUNK + 5, oldest=(CHUNKS[0] - 5) * CHUNK, backfilled=None)
        changes, rows = WordChanges(), list[dict[str, Any]]()
        for chunk in CHUNKS:
            number = chunk * CHUNK + 5
            changes.add(number, words_in(said(chunk)))
            row = {"number": number, "source": "s", "run_id": f"r{chunk}", "changed_at": NOW + chunk}
            rows.append({**row, "document": said(chunk)})
        changes.write(connection)
        connection.execute(sa.insert(run_texts), rows)
        statements.run(connection, state.writing(numbered))

    ledger.write(fill)
    return ledger


def index_state(ledger: Ledger) -> IndexState:
    found = ledger.read(state.read)
    assert found is not None
    return found


def summarize(ledger: Ledger) -> int:
    """Make all summaries that the ledger lacks. Returns in how many steps."""
    it, steps = Summarizer(ledger), 0
    while it.step(index_state(ledger)):
        steps += 1
    return steps


def summarized(ledger: Ledger) -> list[int]:
    """The groups that have a summary, the newest first."""
    found = ledger.read(lambda connection: summaries._named(connection, [summaries._last()]))
    return sorted(found, reverse=True)


def rows_of_summaries(ledger: Ledger) -> int:
    query = sa.select(sa.func.count()).select_from(run_words).where(run_words.c.chunk <= summaries._last())
    return ledger.read(lambda connection: int(connection.execute(query).scalar_one()))


def found(ledger: Ledger, text: str, limit: int = 7) -> Iterator[str]:
    query, before = parse_query(text), None
    while True:
        page = ledger.read(lambda connection: search.find(connection, query, limit, before))
        yield from (match.run_id for match in page.matches)
        if (before := page.next) is None:
            return


def wanted(text: str) -> list[str]:
    return [f"r{chunk}" for chunk in reversed(CHUNKS) if parse_query(text).matches(said(chunk))]


def chunks_looked_at(ledger: Ledger, text: str) -> list[int]:
    """The chunks that a search of the whole ledger looks at."""
    looked_at: list[int] = []
    look = search._Walk._look
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search._Walk, "_look", lambda walk, chunks: (looked_at.extend(chunks), look(walk, chunks))[1])
        assert list(found(ledger, text, 100)) == wanted(text)
    return looked_at


def test_a_search_finds_the_same_whether_there_are_summaries_or_not(full: Ledger) -> None:
    # Given what is found without any, and while they are made
    for text in SEARCHES:
        assert list(found(full, text)) == wanted(text), text
    it, steps = Summarizer(full), 0
    while it.step(index_state(full)):
        steps += 1
        if steps % 5 == 0:
            assert [list(found(full, text)) for text in SEARCHES[:6]] == [wanted(text) for text in SEARCHES[:6]]
    # When all full groups have one
    assert summarized(full) == GROUPS
    # Then the same is found
    for text in SEARCHES:
        assert list(found(full, text)) == wanted(text), text
        assert list(found(full, text, 100)) == wanted(text), text


@pytest.mark.parametrize(
    ("text", "where"),
    [('"rare7"', {7}), ("rare23", {23}), ("rare23 common", {23}), ('"nowhere"', set()), ("ünlü", {3})],
)
def test_a_rare_word_is_looked_for_only_where_it_may_be(full: Ledger, text: str, where: set[int]) -> None:
    # Given that without summaries each chunk is looked at
    assert sorted(chunks_looked_at(full, text)) == list(CHUNKS)
    summarize(full)
    # When it is searched with them
    looked_at = chunks_looked_at(full, text)
    # Then it is looked for where it is, and in the chunks of the group that is not full
    assert set(looked_at) == where | set(range(32, 40))
    assert len(looked_at) == len(set(looked_at))


def test_a_page_goes_on_where_the_one_before_has_ended(full: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    summarize(full)
    monkeypatch.setattr(search, "CHUNKS", 3)
    for text in ('"rare7"', "rare", "odd common"):
        assert list(found(full, text, 2)) == wanted(text), text


def test_a_search_reads_summaries_of_so_many_chunks_at_the_most(full: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given that those of 32 chunks are read for one search
    summarize(full)
    monkeypatch.setattr(search, "_SUMMARIZED", 32)
    # When a word is searched that is in none of those
    looked_at = chunks_looked_at(full, '"rare3"')
    # Then the chunks behind them are looked at
    assert set(looked_at) == {*range(32, 40), *range(7), *range(-16, 0)}


def test_a_word_that_none_has_is_looked_up_in_three_requests(full: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a ledger of many chunks, of which the newest have no summary
    summarize(full)
    # When a word is searched that is nowhere
    asked: list[Any] = []
    run = statements.run
    monkeypatch.setattr(statements, "run", lambda connection, *some: (asked.append(some), run(connection, *some))[1])
    found = full.read(lambda connection: search.find(connection, parse_query("nowhere"), 50))
    # Then that is known by the bounds, by the newest chunk, and by the summaries beside the chunks that have none
    assert found == ([], None)
    assert [len(each) for each in asked] == [1, 1, 2]


def test_a_word_that_many_have_reads_no_summary(full: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    summarize(full)
    asked: list[Any] = []
    monkeypatch.setattr(summaries, "with_all", lambda *given: asked.append(given) or ([], [[]]))
    monkeypatch.setattr(search, "_SELDOM", 1)
    with full._engine(write=False).connect() as connection:
        assert next(iter(search._Walk(connection, parse_query("common"), 0, 39 * CHUNK + 5))) == 39 * CHUNK + 5
    assert not asked


def test_a_group_has_no_summary_before_its_last_chunk_is_full(full: Ledger) -> None:
    # Given a ledger whose numbers have come to the last chunk of a group
    def come_to(number: int) -> None:
        now = replace(index_state(full), newest=number)
        full.write(lambda connection: statements.run(connection, state.writing(now)))

    it = Summarizer(full)
    come_to(48 * CHUNK - 1)
    while it.step(index_state(full)):
        pass
    assert summarized(full) == GROUPS
    # When a run comes there, and then one behind it
    full.write(lambda connection: words_of(48 * CHUNK - 1, "rarest").write(connection))
    come_to(48 * CHUNK)
    while it.step(index_state(full)):
        pass
    # Then the group has one, which has the word of that run
    assert summarized(full) == [2, *GROUPS]
    with full._engine(write=False).connect() as connection:
        assert summaries.with_all(connection, range(48, -17, -1), [Term("rarest")])[0] == [48, 47]


def words_of(number: int, *words: str) -> WordChanges:
    changes = WordChanges()
    changes.add(number, words)
    return changes


@pytest.mark.parametrize(
    ("oldest", "backfilled", "groups"),
    [(1, False, [0, 1]), (1, True, [1]), (0, False, [0, 1]), (-5, True, [0, 1]), (-16 * CHUNK - 1, True, [-1, 0, 1])],
)
def test_a_group_that_old_runs_may_come_to_is_not_full(oldest: int, backfilled: bool, groups: list[int]) -> None:
    place = state.Place(NOW)
    now = IndexState(40 * CHUNK, oldest, place, place, place if backfilled else None)
    assert list(summaries._full(now)) == groups


def test_two_that_make_the_same_summary_and_one_that_was_killed_do_no_harm(full: Ledger) -> None:
    # Given one that has ended in the middle of reading, and one in the middle of writing
    first, second = Summarizer(full), Summarizer(full)
    for _ in range(10):
        assert first.step(index_state(full))
    for _ in range(19):
        assert second.step(index_state(full))
    assert 0 < rows_of_summaries(full) < summaries.ROWS
    assert summarized(full) == []
    # When others make all of them, while the first goes on
    assert summarize(full) > 0
    while first.step(index_state(full)):
        pass
    # Then each group has one, and nothing is left to be done
    assert summarized(full) == GROUPS
    assert rows_of_summaries(full) == len(GROUPS) * summaries.ROWS
    assert summarize(full) == 0
    assert set(chunks_looked_at(full, '"rare7"')) == {7, *range(32, 40)}


def test_a_group_of_too_many_words_has_none_and_is_looked_at(full: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "MOST", 100)
    # When summaries are made, of which the first would become too large
    full.write(lambda connection: words_of(20 * CHUNK + 6, *(f"word{n}" for n in range(200))).write(connection))
    assert summarize(full) > 0
    # Then the others have one, the attempt is not made again, and it is looked at as before
    assert summarized(full) == [0, -1]
    assert summarize(full) == 0
    assert set(chunks_looked_at(full, '"rare7"')) == {7, *range(16, 40)}


def test_a_chunk_with_more_words_than_are_read_at_once_is_whole_in_its_summary(
    full: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "_WORDS", 5)
    words = [f"word{n}" for n in range(23)]
    full.write(lambda connection: words_of(20 * CHUNK + 6, *words).write(connection))
    summarize(full)
    with full._engine(write=False).connect() as connection:
        for word in words:
            assert summaries.with_all(connection, range(31, -17, -1), [Term(word)])[0] == [20], word


def test_what_is_removed_leaves_no_summary(full: Ledger) -> None:
    # Given summaries, and that all runs of the two oldest groups go, but for one
    summarize(full)
    full.write(lambda connection: indexing.remove(connection, [("s", f"r{chunk}") for chunk in range(-16, 15)]))
    assert summarized(full) == [1, 0]
    assert list(found(full, "rare3")) == [f"r{chunk}" for chunk in range(39, 29, -1)]
    # When that one goes as well
    full.write(lambda connection: indexing.remove(connection, [("s", "r15")]))
    # Then one group has a summary, and when no run is left none has
    assert rows_of_summaries(full) == summaries.ROWS
    full.write(lambda connection: indexing.remove(connection, [("s", f"r{chunk}") for chunk in CHUNKS]))
    rows = sa.select(sa.func.count()).select_from(run_words)
    assert full.read(lambda connection: connection.execute(rows).scalar_one()) == 0
    assert summarize(full) == 0


def test_the_clock_makes_them_once_nothing_is_left_to_index(full: Ledger) -> None:
    it, other = TextIndexer(full, Redactor([])), TextIndexer(full, Redactor([]))
    # Given a clock that has time for one piece
    it.run(0)
    assert not it.at_rest
    # When it has as much time as it wants, and rests after each piece
    rested: list[float] = []
    it.run(60, rested.append)
    # Then they are there
    assert summarized(full) == GROUPS
    assert len(rested) > 2 * summaries.GROUP
    # And it and others have nothing left to do
    for each in (it, other):
        rested.clear()
        assert each.run(60, rested.append) == 0
        assert each.at_rest
        assert not rested


def test_a_ledger_that_has_all_is_not_asked_again_before_more_is_full(
    full: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, now = Summarizer(full), index_state(full)
    while it.step(now):
        pass
    asked: list[range] = []
    monkeypatch.setattr(summaries, "_lacking", lambda _, groups: asked.append(groups))
    assert not it.step(now)
    assert asked == []
    assert not it.step(replace(now, newest=48 * CHUNK))
    assert asked == [range(-1, 3)]


def test_while_one_clock_indexes_another_makes_no_summaries(full: Ledger) -> None:
    held = replace(index_state(full), owner="another", leased_until=full.now() + indexing.LEASE)
    full.write(lambda connection: statements.run(connection, state.writing(held)))
    TextIndexer(full, Redactor([])).run(60)
    assert rows_of_summaries(full) == 0


def test_no_more_than_a_row_a_group_and_word_is_read(full: Ledger) -> None:
    # Given a ledger of which PostgreSQL has no statistics
    summarize(full)
    read: list[int] = []

    def rows(connection: sa.Connection) -> int:
        query = sa.text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'run_words'")
        return int(connection.execute(query).scalar_one())

    with full._engine(write=False).connect() as connection:
        if full.dialect == "sqlite":
            asked = summaries._READ.on_sqlite
            values = asked.parameters({"rows": [1, 2], "first": "a", "last": "b"})
            plan = str(connection.exec_driver_sql("EXPLAIN QUERY PLAN " + asked.text, values).all())
            assert "SEARCH run_words USING PRIMARY KEY (chunk=? AND word>? AND word<?)" in plan
            return
        read.append(rows(connection))
        summaries.with_all(connection, range(39, -17, -1), [Term("rare7"), Term("rare8")])
        read.append(rows(connection))
    # When two words are looked up in the summaries of three groups, then that is six rows
    assert read[1] - read[0] == 6


@pytest.mark.parametrize("alphabet", ["ab", "0123456789", "aé東\U0001f40d"])
def test_each_term_that_finds_a_word_has_a_hash_of_that_word(alphabet: str) -> None:
    chance = random.Random(1)
    for _ in range(300):
        word = "".join(chance.choices(alphabet, k=chance.randint(1, 30)))
        known = set(summaries._hashes([word.encode()]))
        asked = [summaries._hash_of(Term(word[:size], prefix=True)) for size in range(1, len(word) + 1)]
        assert {each for each in asked if each is not None} <= known
        whole = summaries._hash_of(Term(word))
        assert whole in known


def test_a_summary_names_few_chunks_wrongly() -> None:
    # Given a summary of a chunk with 100,000 words, as of 16,384 runs with some words of their own
    made = summaries._Summary(0)
    for n in range(0, 100_000, 10_000):
        made._add([f"{word * 7919 % 100_000_007}".encode() for word in range(n, n + 10_000)], 3)
    # When others are looked up
    wrong = 0
    for word in range(100_000, 110_000):
        its_hash = summaries._hash_of(Term(f"{word * 7919 % 100_000_007}"))
        assert its_hash is not None
        row = made._rows[summaries._row(its_hash)]
        wrong += summaries._places(type(row)("H", sorted(set(row))), its_hash) != 0
    # Then it names the chunk for one in a hundred
    assert wrong < 150
