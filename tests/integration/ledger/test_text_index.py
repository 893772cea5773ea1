"""Free text over runs, on both databases: what is found is what a plain look at every run finds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import sqlalchemy as sa

from receiver.domain.redaction import MASK, Redactor
from receiver.domain.run import RunKey
from receiver.domain.words import document, parse_query, words_in
from receiver.ledger import Ledger, retention, statements
from receiver.ledger.filters import Filter, of_runs
from receiver.ledger.lists import runs as lists
from receiver.ledger.schema import run_texts, run_words, runs
from receiver.ledger.statements import BoundStatement, StatementForm
from receiver.ledger.text_index import indexing, postings, reading, search, state
from receiver.ledger.text_index.coverage import Coverage, coverage
from receiver.ledger.text_index.indexing import TextIndexer
from receiver.ledger.text_index.postings import CHUNK, change, chunk_of, decode, encode, numbers, packed
from receiver.ledger.text_index.state import Place
from tests.support.ledger import NOW, new_event, record

WORDS = [
    *("login", "timeout", "captcha", "page", "invoice", "inv-17", "inv-18", "2026-11-25"),
    *("東京", "Straße", "paid", "the", "a", "total", "1500"),
]
SEARCHES = (
    *("login", "log", "timeout capt", '"login timeout"', "inv-1", "inv-17 ", '"inv 18"', "2026-11", "東京", "京都"),
    *(
        "strasse",
        "STRASS",
        "a the",
        "t* p* i*",
        "1500 total",
        "nothing",
        "nothing a",
        "login timeout captcha page paid",
    ),
)


def indexer(ledger: Ledger) -> TextIndexer:
    return TextIndexer(ledger, Redactor(["**.password"]))


def index(ledger: Ledger) -> int:
    return indexer_of(ledger).run(60)


def indexer_of(ledger: Ledger) -> TextIndexer:
    """The indexer of a test's only clock."""
    if ledger not in _INDEXERS:
        _INDEXERS[ledger] = indexer(ledger)
    return _INDEXERS[ledger]


_INDEXERS: WeakKeyDictionary[Ledger, TextIndexer] = WeakKeyDictionary()


def pages(ledger: Ledger, text: str, limit: int = 7) -> Iterator[list[str]]:
    query, before = parse_query(text), None
    while True:
        found = ledger.read(lambda connection: search.find(connection, query, limit, before))
        yield [match.run_id for match in found.matches]
        if (before := found.next) is None:
            return


def found(ledger: Ledger, text: str, limit: int = 7) -> list[str]:
    return [run_id for page in pages(ledger, text, limit) for run_id in page]


def holds_what_the_documents_say(ledger: Ledger) -> bool:
    """Whether the words of the index are those of the documents, no more and no less."""

    def read(connection: sa.Connection) -> tuple[set[tuple[int, str]], set[tuple[int, str]]]:
        said = {
            (row.number, word)
            for row in connection.execute(sa.select(run_texts.c.number, run_texts.c.document))
            for word in words_in(row.document)
        }
        written = {
            (number, row.word)
            for row in connection.execute(sa.select(run_words))
            for number in numbers(row.chunk, decode(bytes(row.runs)))
        }
        return said, written

    said, written = ledger.read(read)
    return said == written


def ledger_time(ledger: Ledger, seconds: float) -> None:
    """Let the ledger's clock show another time."""
    ledger.now = lambda: seconds  # type: ignore[method-assign]


def test_a_search_finds_what_a_look_at_every_run_finds(ledger: Ledger) -> None:
    # Given runs of two sources, some of which changed since they were indexed
    chance = random.Random(1)
    said: dict[str, str] = {}
    changed: list[str] = []
    index(ledger)
    for turn in range(6):
        now, batch = NOW + turn, []
        for run_id in chance.sample([f"r{n}" for n in range(120)], 60):
            title, *values = (" ".join(chance.choices(WORDS, k=3)) for _ in range(3))
            batch.append(new_event(run_id, title=title, output={"turn": f"turn{turn}", "values": values}))
            said[run_id] = document(title, None, {"turn": f"turn{turn}", "values": values})
        record(ledger, *batch, now=now)
        changed = [run_id for run_id in changed if run_id not in {item.run.run_id for item in batch}]
        changed += sorted(item.run.run_id for item in batch)
        index(ledger)
    # When it is searched, page by page
    for text in (*SEARCHES, "turn3", "turn"):
        query = parse_query(text)
        wanted = [run_id for run_id in reversed(changed) if query.matches(said[run_id])]
        # Then each run that says so is found once, the one that changed last first
        assert found(ledger, text) == wanted, text
        assert found(ledger, text, limit=500) == wanted, text
        # And so it is without the index, for lists of other things
        assert set(found_by_condition(ledger, text)) == set(wanted), text
    assert holds_what_the_documents_say(ledger)


def found_by_condition(ledger: Ledger, text: str) -> Iterable[str]:
    rows = sa.select(runs.c.run_id).where(*of_runs(Filter(text=text)))
    return ledger.read(lambda connection: list(connection.execute(rows).scalars()))


def test_all_runs_that_are_found_are_told_when_they_are_few(ledger: Ledger) -> None:
    index(ledger)
    record(ledger, *(new_event(f"r{n}", title="same") for n in range(5)))
    index(ledger)

    def few(limit: int) -> list[RunKey] | None:
        return ledger.read(lambda connection: search.find_all(connection, parse_query("same"), limit))

    assert few(5) == [("skyvern", f"r{n}") for n in reversed(range(5))]
    assert few(4) is None


def test_a_ledger_that_was_there_is_indexed_from_the_newest_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given runs of before the index
    monkeypatch.setattr(reading, "BATCH", 10)
    for n in range(35):
        record(ledger, new_event(f"old{n:02}", title="same"), now=NOW + 100 * n)
    # When a clock has done its first batch
    it = indexer(ledger)
    it.run(0)  # those that changed at the very end
    it.run(0)
    it.run(0)
    # Then the newest are found, and how far that goes is told
    newest = [f"old{n:02}" for n in range(34, -1, -1)]
    some = found(ledger, "same")
    assert 0 < len(some) < 35
    assert some == newest[: len(some)]
    told = ledger.read(coverage)
    assert (told.since, told.until, told.oldest) == (NOW + 100 * (35 - len(some)), None, NOW)
    assert told.to_do == 100 * (35 - len(some))
    # And runs that change meanwhile come before what is old
    record(ledger, new_event("old03", title="same again"), now=NOW + 5000)
    assert ledger.read(coverage).behind(NOW + 5010) == 10
    it.run(0)
    assert found(ledger, "same")[: len(some) + 1] == ["old03", *some]
    # When it goes on, then all are found, each once
    it.run(60)
    assert found(ledger, "same") == ["old03", *(run_id for run_id in newest if run_id != "old03")]
    assert ledger.read(coverage) == Coverage()
    assert holds_what_the_documents_say(ledger)


def test_a_run_whose_transaction_was_slow_is_found_all_the_same(ledger: Ledger) -> None:
    # Given that the index has passed the time at which a run changed, when that is committed
    ledger_time(ledger, NOW + 21)
    index(ledger)
    record(ledger, new_event("quick", title="same"), now=NOW + 20)
    index(ledger)
    record(ledger, new_event("slow", title="same"), now=NOW + 19)
    index(ledger)
    assert found(ledger, "same") == ["quick"]
    # When no transaction of that time can be under way any more
    ledger_time(ledger, NOW + 21 + state.SETTLED)
    # Then it has been found
    assert index(ledger) == 1
    assert found(ledger, "same") == ["slow", "quick"]


def test_runs_that_were_indexed_late_hide_none_that_changed_after_them(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given runs of a slow transaction, of which the index came to know after one that changed a little later
    monkeypatch.setattr(lists, "_MANY", 1)
    monkeypatch.setattr(lists, "_AT_ONCE", 1)
    ledger_time(ledger, NOW + 21)
    record(ledger, new_event("quick", title="same"), now=NOW + 20)
    index(ledger)
    record(ledger, new_event("slow", title="same"), now=NOW + 19)
    ledger_time(ledger, NOW + 21 + state.SETTLED)
    index(ledger)
    # When runs are searched that changed after that transaction began
    rows, rest = ledger.read(lambda it: lists.list_runs(it, Filter(text="same", since=NOW + 20), None, 5))
    # Then that one is found
    assert ([row["run_id"] for row in rows], rest) == (["quick"], None)


def test_runs_that_changed_at_the_same_moment_are_all_indexed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given more runs of one moment than a batch takes: of before the index, of now, and of a slow transaction
    monkeypatch.setattr(reading, "BATCH", 10)
    monkeypatch.setattr(reading, "AGAIN", 10)
    ledger_time(ledger, NOW + 202)
    record(ledger, *(new_event(f"old{n:02}", title="same") for n in range(35)), now=NOW)
    record(ledger, new_event("newest_of_old", title="same"), now=NOW + 1)
    index(ledger)
    record(ledger, *(new_event(f"new{n:02}", title="same") for n in range(35)), now=NOW + 200)
    record(ledger, *(new_event(f"next{n:02}", title="same") for n in range(5)), now=NOW + 201)
    index(ledger)
    record(ledger, *(new_event(f"slow{n:02}", title="same") for n in range(35)), now=NOW + 199)
    # When they are indexed
    ledger_time(ledger, NOW + 202 + state.SETTLED)
    index(ledger)
    # Then each is found
    kinds = ("old", 35), ("new", 35), ("next", 5), ("slow", 35)
    all_of_them = {"newest_of_old", *(f"{name}{n:02}" for name, count in kinds for n in range(count))}
    assert sorted(found(ledger, "same")) == sorted(all_of_them)
    assert ledger.read(coverage) == Coverage()


def test_a_second_look_finds_more_than_a_batch(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given more late runs, among others, than a batch takes, and than are looked at together
    monkeypatch.setattr(reading, "BATCH", 4)
    monkeypatch.setattr(reading, "AGAIN", 6)
    ledger_time(ledger, NOW + 20)
    index(ledger)
    for n in range(20):
        record(ledger, new_event(f"quick{n:02}", title="same"), now=NOW + n)
    index(ledger)
    for n in range(20):
        record(ledger, new_event(f"slow{n:02}", title="same"), now=NOW + n - 0.5)
    # When it looks again, at a few at a time
    read = ledger.read(lambda it: reading.missed_between(it, Place(NOW - 1), Place(NOW + 20), Redactor([])))
    assert (read.last, read.more, len(read.texts)) == (Place(NOW + 2), True, 3)
    ledger_time(ledger, NOW + 20 + state.SETTLED)
    assert index(ledger) == 20
    # Then all are found, and nothing is left to be looked at
    assert len(found(ledger, "same", 100)) == 40
    assert holds_what_the_documents_say(ledger)
    assert index(ledger) == 0
    assert indexer_of(ledger).at_rest


def test_two_clocks_index_each_run_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given two clocks, each of which takes over as soon as it can
    monkeypatch.setattr(reading, "BATCH", 8)
    monkeypatch.setattr(indexing, "LEASE", 0.0)
    for n in range(15):
        record(ledger, *(new_event(f"r{n}_{m}", title=f"same t{m}") for m in range(10)), now=NOW + n)
    url = ledger.url.render_as_string(hide_password=False)
    counts: list[int] = []

    def clock() -> None:
        own = Ledger(url)
        it = indexer(own)
        while len(found(own, "same", 500)) < 150:
            counts.append(it.run(0.05))
            assert time.monotonic() < until
        own.close()

    # When they work at the same time, while runs change
    until = time.monotonic() + 60
    threads = [threading.Thread(target=clock) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(5):
        record(ledger, *(new_event(f"r{n}_{m}", title=f"same anew t{m}") for m in range(10)), now=NOW + 100 + n)
    for thread in threads:
        thread.join(60)
    index(ledger)
    # Then every run is there once, and the words are those of the runs
    assert sorted(found(ledger, "same")) == sorted(f"r{n}_{m}" for n in range(15) for m in range(10))
    assert sorted(found(ledger, "anew")) == sorted(f"r{n}_{m}" for n in range(5) for m in range(10))
    assert holds_what_the_documents_say(ledger)


def test_a_clock_that_was_overtaken_writes_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a clock that has read a batch, and another that has written it meanwhile
    monkeypatch.setattr(indexing, "LEASE", 0.0)
    index(ledger)
    record(ledger, new_event("r1", title="same"))
    slow, quick = indexer(ledger), indexer(ledger)
    batch = slow._next()
    assert batch is not None
    assert quick.run(0) == 1
    before = ledger.read(state.read)
    # When the first writes
    assert not ledger.write(lambda connection: slow._write(connection, batch, indexing._numbered(batch)))
    # Then nothing is different
    assert ledger.read(state.read) == before
    assert found(ledger, "same") == ["r1"]


def test_while_one_clock_indexes_another_does_not(ledger: Ledger) -> None:
    first, second = indexer(ledger), indexer(ledger)
    first.run(0)
    ledger_time(ledger, NOW)
    record(ledger, new_event("r1", title="same"))
    assert first.run(0) == 1
    record(ledger, new_event("r2", title="same"), now=NOW + 1)
    assert second.run(0) == 0
    ledger_time(ledger, NOW + indexing.LEASE)
    assert second.run(0) == 1


def test_a_batch_reads_no_more_of_a_new_ledger_than_its_own_runs_and_words(ledger: Ledger) -> None:
    # Given runs and words of which PostgreSQL has no statistics yet, and many more of them than a batch has
    if ledger.dialect == "sqlite":
        return  # whose plans do not depend on them
    index(ledger)
    for n in range(10):
        record(ledger, *(new_event(f"r{n}_{m}", title=f"same t{n}x{m}") for m in range(200)), now=NOW + n)
    index(ledger)
    old = "SELECT 'skyvern', 'old' || n, 0, 0 FROM generate_series(1, 6000) AS n"
    fill = sa.text(f"INSERT INTO runs (source, run_id, first_seen_at, updated_at) {old}")
    ledger.write(lambda connection: connection.execute(fill))
    # When a batch of others is written
    record(ledger, *(new_event(f"new{m}", title=f"same t0x{m} t{m}") for m in range(40)), now=NOW + 100)
    it = indexer_of(ledger)
    read = sa.text("SELECT relname, seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables")
    rows: list[dict[str, int]] = []

    def count(connection: sa.Connection) -> None:
        rows.append({name: count for name, count in connection.execute(read)})  # noqa: C416

    def write(connection: sa.Connection) -> bool:
        count(connection)
        seen = state.read(connection)
        assert seen is not None
        batch = it._read(connection, seen, NOW + 100, caught_up=False)
        assert batch is not None
        count(connection)
        with pytest.MonkeyPatch.context() as patch:
            run = statements.run
            patch.setattr(statements, "run", lambda *given, commit=False: run(*given))  # or its numbers would be gone
            done = it._write(connection, batch, indexing._numbered(batch))
        count(connection)
        return done

    assert ledger.write(write)
    before, between, after = rows
    # Then it has read these, and not all that are there
    assert between["runs"] - before["runs"] <= 300  # of one moment: those of the batch before, twice
    assert between["events"] - before["events"] <= 40
    assert after["runs"] == between["runs"]
    assert after["run_words"] - before["run_words"] <= 300
    assert holds_what_the_documents_say(ledger)


@pytest.mark.parametrize(("waited", "rests"), [(0.5, 4), (5.0, 2)])
def test_it_rests_between_batches_unless_it_is_behind(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, waited: float, rests: int
) -> None:
    # Given three batches of runs that changed so many seconds ago
    monkeypatch.setattr(reading, "BATCH", 10)
    index(ledger)
    record(ledger, *(new_event(f"r{n}", title="same") for n in range(25)), now=NOW)
    ledger_time(ledger, NOW + waited)
    # When they are indexed
    rested: list[float] = []
    assert indexer_of(ledger).run(60, rested.append) == 25
    # Then it rests after each, and after the second look at them; when it is behind, only once it has caught up
    assert len(rested) == rests
    assert all(seconds > 0 for seconds in rested)


def test_what_fills_batches_is_written_together(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given runs that changed, of five batches; of which one writes what three have at the most
    monkeypatch.setattr(reading, "BATCH", 10)
    monkeypatch.setattr(indexing, "TOGETHER", 30)
    index(ledger)
    record(ledger, *(new_event(f"r{n:02}", title="same") for n in range(45)), now=NOW)
    written: list[int] = []
    write = indexing.TextIndexer._write

    def noting(it: indexing.TextIndexer, *given: Any, batch: Any, **more: Any) -> bool:
        written.append(len(batch.texts))
        return write(it, *given, batch=batch, **more)

    monkeypatch.setattr(indexing.TextIndexer, "_write", noting)
    # When they are indexed
    assert indexer_of(ledger).run(60, lambda _: None) == 45
    # Then two transactions have written them, and one notes how far they were looked at again
    assert written == [30, 15, 0]
    assert len(found(ledger, "same")) == 45
    assert holds_what_the_documents_say(ledger)


def test_what_is_long_is_not_written_together(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH", 10)
    monkeypatch.setattr(indexing, "TOGETHER_CHARACTERS", 10 * len(" same "))
    index(ledger)
    record(ledger, *(new_event(f"r{n:02}", title="same") for n in range(25)), now=NOW)
    it = indexer_of(ledger)
    batch = it._next()
    assert batch is not None
    assert not batch.goes_on
    assert it.run(60, lambda _: None) == 25


def test_a_run_that_changes_while_batches_are_read_has_its_last_words(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given batches that are written together, of which the first has a run that changes before the next is read
    monkeypatch.setattr(reading, "BATCH", 2)
    index(ledger)
    record(ledger, *(new_event(f"r{n}", title="early") for n in range(3)), now=NOW)
    again = [new_event("r0", title="late", number=2)]

    def rest(_: float) -> None:
        if again:
            record(ledger, again.pop(), now=NOW + 1)

    # When they are indexed
    ledger_time(ledger, NOW + 1)
    assert indexer_of(ledger).run(60, rest) == 3
    # Then it is there once, as it is now
    assert found(ledger, "early") == ["r2", "r1"]
    assert found(ledger, "late") == ["r0"]
    assert holds_what_the_documents_say(ledger)


def test_what_is_removed_leaves_no_word(ledger: Ledger) -> None:
    # Given an old run and a new one that share a word
    index(ledger)
    record(ledger, new_event("old", title="same private"), now=NOW)
    record(ledger, new_event("new", title="same public"), now=NOW + 100)
    index(ledger)
    # When the old one is past its retention
    ledger.write(lambda connection: retention.remove(connection, NOW + 50))
    # Then it is not found, and what only it said is nowhere
    assert found(ledger, "same") == ["new"]
    assert found(ledger, "private") == []
    assert holds_what_the_documents_say(ledger)
    words = sa.select(run_words.c.word).order_by(run_words.c.word)
    assert "private" not in ledger.read(lambda connection: list(connection.execute(words).scalars()))


def test_a_run_that_was_removed_while_it_was_read_is_not_indexed(ledger: Ledger) -> None:
    index(ledger)
    record(ledger, new_event("old", title="private"), now=NOW)
    it = indexer_of(ledger)
    batch = it._next()
    assert batch is not None
    ledger.write(lambda connection: retention.remove(connection, NOW + 50))
    ledger.write(lambda connection: it._write(connection, batch, indexing._numbered(batch)))
    rows = sa.select(sa.func.count()).select_from(run_texts)
    assert ledger.read(lambda connection: connection.execute(rows).scalar_one()) == 0


def test_what_is_redacted_is_never_found(ledger: Ledger) -> None:
    # Given a body that was recorded before its field was to be masked, and one after
    index(ledger)
    record(ledger, new_event("before", output={"user": "ada", "password": "hunter2"}))
    record(ledger, new_event("after", output={"user": "ada", "password": MASK}), now=NOW + 1)
    index(ledger)
    assert found(ledger, "ada") == ["after", "before"]
    assert found(ledger, "hunter2") == found(ledger, "redacted") == []


def test_of_a_large_body_the_beginning_is_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BODY", 500)
    index(ledger)
    record(ledger, new_event("large", title="title", output=["first", *(f"word{n}" for n in range(1000)), "last"]))
    record(ledger, new_event("huge_first", junk="x" * 1000, output="lost", title="other"), now=NOW + 1)
    index(ledger)
    assert found(ledger, "first title") == ["large"]
    assert found(ledger, "last") == []
    assert found(ledger, "other") == ["huge_first"]


def test_batches_are_bounded_in_bytes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BODIES", 1000)
    index(ledger)
    record(ledger, *(new_event(f"r{n}", title="same", output="x" * 700) for n in range(3)))
    assert [indexer_of(ledger).run(0) for _ in range(4)] == [1, 1, 1, 0]
    assert found(ledger, "same") == ["r2", "r1", "r0"]


@pytest.fixture
def many_chunks(ledger: Ledger) -> Ledger:
    """A ledger with a run every 16,384 numbers, as if all between were others': the oldest is the only `rare` one."""
    index(ledger)

    def fill(connection: sa.Connection) -> None:
        changes, rows = postings.WordChanges(), list[dict[str, Any]]()
        for n in range(300):
            number = n * CHUNK + 5
            text = " common rare " if n == 0 else " common "
            changes.add(number, words_in(text))
            rows.append({"number": number, "source": "s", "run_id": f"r{n}", "changed_at": NOW + n, "document": text})
        changes.write(connection)
        connection.execute(sa.insert(run_texts), rows)

    ledger.write(fill)
    return ledger


def test_a_rare_word_costs_few_requests_and_rows(many_chunks: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # When a word is searched that only the oldest of 4,900,000 numbers has
    asked: list[tuple[BoundStatement | None, ...]] = []
    run = statements.run
    monkeypatch.setattr(statements, "run", lambda connection, *some: (asked.append(some), run(connection, *some))[1])
    assert found(many_chunks, "rare") == ["r0"]
    # Then few requests found it, and no more rows than there are hits
    assert 3 <= len(asked) <= 9
    with many_chunks._engine(write=False).connect() as connection:
        walk = search._Walk(connection, parse_query("rar"), 5, 299 * CHUNK + 5)
        assert list(walk) == [5]
        assert walk._rows == 1
        recent = search._Walk(connection, parse_query("common"), 5, 299 * CHUNK + 5)
        assert next(iter(recent)) == 299 * CHUNK + 5
        assert recent._rows == 1


def test_of_several_words_the_rarest_is_looked_up_first_once_it_is_known(many_chunks: Ledger) -> None:
    # When a word that all runs have is searched with a shorter one, that the oldest has alone
    with many_chunks._engine(write=False).connect() as connection:
        walk = search._Walk(connection, parse_query("common rare "), 5, 299 * CHUNK + 5)
        assert list(walk) == [5]
    # Then the common one is looked up in the first chunk, and in that of the other
    assert walk._rows == 3


def test_chunks_are_looked_at_together_while_few_rows_are_read(
    many_chunks: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two words in each chunk that begin with c, and 20 rows as the most of one group
    def add(connection: sa.Connection) -> None:
        changes = postings.WordChanges()
        for n in range(300):
            changes.add(n * CHUNK + 6, ["captcha"])
        changes.write(connection)

    many_chunks.write(add)
    monkeypatch.setattr(search, "_MANY", 20)
    groups: list[int] = []
    look = search._Walk._look
    monkeypatch.setattr(search._Walk, "_look", lambda walk, chunks: (groups.append(len(chunks)), look(walk, chunks))[1])

    # When such words are searched, and one that is nowhere
    with many_chunks._engine(write=False).connect() as connection:
        assert len(list(search._Walk(connection, parse_query("c*"), 5, 299 * CHUNK + 5))) == 599
        of_many = groups.copy()
        groups.clear()
        assert not list(search._Walk(connection, parse_query("nowhere "), 5, 299 * CHUNK + 5))

    # Then what was looked at says how many come next; the first chunk had hardly begun
    assert of_many == [1, 1, *[10] * 29, 8]
    assert groups == [1, 20, *[64] * 4, 23]


def test_no_more_chunks_are_looked_at_than_have_enough(many_chunks: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a word that 30 runs of each chunk have
    def add(connection: sa.Connection) -> None:
        changes = postings.WordChanges()
        for n in range(300 * 30):
            changes.add(n // 30 * CHUNK + n % 30, ["paid"])
        changes.write(connection)

    many_chunks.write(add)
    monkeypatch.setattr(search, "_ENOUGH", 100)
    groups: list[int] = []
    look = search._Walk._look
    monkeypatch.setattr(search._Walk, "_look", lambda walk, chunks: (groups.append(len(chunks)), look(walk, chunks))[1])
    # When the first 130 are taken
    with many_chunks._engine(write=False).connect() as connection:
        found = list(islice(search._Walk(connection, parse_query("paid "), 5, 299 * CHUNK + CHUNK - 1), 130))
    # Then the chunks that have a hundred were looked at, after the first
    assert found == [chunk * CHUNK + n for chunk in range(299, 294, -1) for n in range(29, -1, -1)][:130]
    assert groups == [1, 4]


def test_a_search_that_takes_long_ends_and_goes_on_later(many_chunks: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "CHUNKS", 20)
    by_page = list(pages(many_chunks, "rare"))
    assert by_page[-1] == ["r0"]
    assert by_page[:-1] == [[]] * (len(by_page) - 1)
    assert 1 < len(by_page) < 20
    monkeypatch.setattr(search, "DOCUMENTS", 50)
    assert found(many_chunks, '"common rare"') == ["r0"]
    assert found(many_chunks, "common", limit=100) == [f"r{n}" for n in reversed(range(300))]


def test_the_index_of_words_is_read_and_never_the_whole_table(many_chunks: Ledger) -> None:
    with many_chunks._engine(write=False).connect() as connection:
        connection.exec_driver_sql("ANALYZE" if many_chunks.dialect == "sqlite" else "SET enable_seqscan = on")
        walk = search._Walk(connection, parse_query("rar* common"), 5, 299 * CHUNK + 5)
        for term in walk._terms:
            plan = _plan(connection, walk._query(term, list(range(200, 264))))
            assert "SCAN run_words" not in plan, plan
            assert "word" in plan, plan


def _plan(connection: sa.Connection, asked: BoundStatement) -> str:
    """How the database runs what is asked."""
    if connection.dialect.name == "sqlite":
        found = asked.statement.on_sqlite
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {found.text}", found.parameters(asked.values))
        return "\n".join(map(str, rows))
    text = str(asked.statement._build(StatementForm.MANY).compile(connection))
    return "\n".join(map(str, connection.exec_driver_sql(f"EXPLAIN {text}", asked.values)))


@pytest.mark.parametrize("number", [0, 1, CHUNK - 1, CHUNK, -1, -CHUNK, 10**12 + 7, -(10**12)])
def test_a_number_comes_back_from_its_chunk(number: int) -> None:
    runs_of = 1 << (number & (CHUNK - 1))
    assert list(numbers(chunk_of(number), decode(encode(runs_of)))) == [number]


@pytest.mark.parametrize("count", [0, 1, 254, 255, 256, 257, CHUNK])
def test_a_set_comes_back_as_it_was_written(count: int) -> None:
    wanted = sum(1 << place for place in random.Random(count).sample(range(CHUNK), count))
    assert decode(encode(wanted)) == wanted
    assert len(encode(wanted)) <= CHUNK // 8


@pytest.mark.parametrize("count", [0, 1, 500, CHUNK // 16 - 1, CHUNK // 16, CHUNK // 2])
@pytest.mark.parametrize("new", [0, 1, 500, CHUNK // 2])
@pytest.mark.parametrize("gone", [0, 1, 500])
def test_a_set_is_changed_as_it_is_written(count: int, new: int, gone: int) -> None:
    places = random.Random(count).sample(range(CHUNK), count + new)
    some, added, removed = places[:count], places[count:], places[: min(gone, count)]
    after = change(encode(sum(1 << place for place in some)), packed(added), removed)
    assert decode(after) == sum(1 << place for place in {*places} - {*removed})
    assert len(after) == len(encode(decode(after)))
