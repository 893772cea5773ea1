"""The ledgers that the benchmarks fill are as those that have grown: rows, words and indexes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from bench import large_ledger
from receiver.ledger import Connection, Ledger
from receiver.ledger.lists import words
from receiver.ledger.schema import metadata
from tests.support import listed
from tests.support.ledger import index_words, queue_all_words, with_tables

pytestmark = pytest.mark.long
COUNT = 6000  # more documents than a search reads by itself


def statements(connection: Connection) -> dict[str, str]:
    """What each index was made by, and on SQLite each table."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master"
    else:
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
    return dict(connection.exec_driver_sql(query).all())


def contents(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each table, in any order of columns and rows that is the same for both databases."""
    return {
        table.name: sorted(ledger.read(lambda it, table=table: list(values(it, table))), key=repr)
        for table in metadata.sorted_tables
    }


def values(connection: Connection, table: sa.Table) -> Iterator[tuple[Any, ...]]:
    """The rows of a table: times to 10 µs."""
    columns = sorted(table.c, key=lambda each: each.name)
    for row in connection.execute(sa.select(*columns)).mappings().all():  # a transaction may not be idle for long
        yield tuple(round(value, 5) if isinstance(value, float) else value for value in row.values())


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger on SQLite whose indexes grew as the rows came, and whose clock has indexed the words."""
    it = with_tables(Ledger(f"sqlite:///{tmp_path_factory.mktemp('grown') / 'ledger.db'}"))
    listed.fill(it, COUNT, hashed=True)
    queue_all_words(it)
    index_words(it)
    yield it
    it.close()


def test_a_filled_ledger_is_as_one_that_has_grown(ledger: Ledger, grown: Ledger) -> None:
    # Given the tables and indexes of a new ledger
    before = ledger.read(statements)
    # When it is filled
    large_ledger.fill(ledger, COUNT)
    # Then each table has the rows of the ledger that has grown
    found, wanted = contents(ledger), contents(grown)
    for name, rows in wanted.items():
        assert len(found[name]) == len(rows), name
        assert [pair for pair in zip(found[name], rows, strict=True) if pair[0] != pair[1]] == [], name
    # And all tables and indexes are there, as they were
    assert {name: made_by for name, made_by in ledger.read(statements).items() if name in before} == before
    # And nothing is left to index
    assert ledger.read(words.coverage) == words.Coverage()
