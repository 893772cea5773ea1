"""The ledgers that the benchmarks fill are as those that have grown: rows, words and indexes."""

from __future__ import annotations

from collections import defaultdict

import pytest
import sqlalchemy as sa

from bench import large_ledger
from receiver.domain.words import document, words_in
from receiver.ledger import Connection, Ledger
from receiver.ledger.indexes import lacking
from receiver.ledger.schema import attempts, deliveries, events, run_texts, run_words, runs
from receiver.ledger.text_index import coverage, state
from receiver.ledger.text_index.postings import CHUNK, chunk_of, decode, numbers

pytestmark = pytest.mark.long
COUNT = CHUNK + 200  # the words of more than one chunk


def statements(connection: Connection) -> dict[str, str]:
    """What each index was made by."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index'"
    else:
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    return dict(connection.exec_driver_sql(query).all())


def words_of_runs(connection: Connection) -> dict[tuple[int, str], set[int]]:
    """The numbers of the runs that have each word, by chunk, from what the runs say."""
    found = defaultdict(set)
    texts = sa.select(run_texts.c.number, runs.c.title, runs.c.failure_reason)
    texts = texts.join(runs, sa.and_(runs.c.source == run_texts.c.source, runs.c.run_id == run_texts.c.run_id))
    for number, title, reason in connection.execute(texts):
        for word in words_in(document(title, reason, None)):
            found[chunk_of(number), word].add(number)
    return found


def test_a_filled_ledger_is_as_one_that_has_grown(ledger: Ledger) -> None:
    # Given the indexes of a new ledger
    before = ledger.read(statements)
    # When it is filled
    large_ledger.fill(ledger, COUNT)
    # Then each run has an event, deliveries and attempts, under ids that are found
    counts = [
        ledger.read(lambda it, table=table: it.execute(sa.select(sa.func.count()).select_from(table)).scalar())
        for table in (runs, events, deliveries, attempts)
    ]
    assert counts == [COUNT, COUNT, 2 * COUNT, 2 * COUNT]
    whole = sa.select(sa.func.count()).select_from(
        runs.join(events, events.c.id == runs.c.event_id)
        .join(deliveries, deliveries.c.event_id == events.c.id)
        .join(attempts, attempts.c.delivery_id == deliveries.c.id)
    )
    assert ledger.read(lambda it: it.execute(whole).scalar()) == 2 * COUNT
    # And all indexes are there, as they were
    assert ledger.read(lacking) == []
    assert ledger.read(statements) == before


def test_the_words_of_a_filled_ledger_are_indexed(ledger: Ledger) -> None:
    # When a ledger is filled
    large_ledger.fill(ledger, COUNT)
    # Then each run says what the clock would have read
    said = sa.select(run_texts.c.document, runs.c.title, runs.c.failure_reason, run_texts.c.changed_at)
    said = said.add_columns(runs.c.updated_at).join(runs, runs.c.run_id == run_texts.c.run_id)
    rows = ledger.read(lambda it: it.execute(said).all())
    assert len(rows) == COUNT
    assert [row for row in rows if row.document != document(row.title, row.failure_reason, None)] == []
    assert [row for row in rows if row.changed_at != row.updated_at] == []
    # And each word is where its runs are
    found = {
        (chunk, word): set(numbers(chunk, decode(written)))
        for chunk, word, written in ledger.read(lambda it: it.execute(sa.select(run_words)).all())
    }
    assert found == ledger.read(words_of_runs)
    # And nothing is left to index
    assert ledger.read(coverage.coverage) == coverage.Coverage()
    assert ledger.read(state.read).newest == COUNT  # type: ignore[union-attr]
