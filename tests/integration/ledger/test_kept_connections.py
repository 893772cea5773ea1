"""A transaction of one request: on a connection that is kept, and with all that other transactions promise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from handlers.support import postgresql
from handlers.support.postgresql import BoundedConnection
from receiver.ledger import Ledger, LedgerDataError
from receiver.ledger.statements import BoundStatement, BuiltStatement
from tests.servers.gate import END_OF_REQUEST, Gate
from tests.servers.postgres import PostgresProcess

words = sa.Table("kept_words", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("word", sa.Text))
added = BuiltStatement(
    lambda _: (
        sa.insert(words)
        .values(id=sa.bindparam("id", type_=sa.Integer), word=sa.bindparam("word", type_=sa.Text))
        .returning(words.c.word)
    )
)


@pytest.fixture
def store(ledger_url: str) -> Iterator[Ledger]:
    with closing(Ledger(ledger_url)) as it:
        it.alter(words.create)
        yield it


@pytest.fixture
def server(postgres_url: str) -> Iterator[Ledger]:
    with closing(Ledger(postgres_url)) as it:
        it.alter(words.create)
        yield it


def add(number: int, word: str = "one") -> BoundStatement:
    return added.with_values(id=number, word=word)


def numbers(ledger: Ledger) -> list[int]:
    query = sa.select(words.c.id).order_by(words.c.id)
    return list(ledger.read(lambda connection: connection.execute(query).scalars()))


def test_it_is_committed_and_returns_the_rows_of_each_statement(store: Ledger) -> None:
    assert store.write_at_once(lambda _: [add(1, "one"), add(2, "two")]) == [[("one",)], [("two",)]]
    assert numbers(store) == [1, 2]


def test_it_takes_one_request_and_nothing_before_or_after_it(server: Ledger, sent: list[None]) -> None:
    server.write_at_once(lambda _: [add(1)])
    sent.clear()
    for number in (2, 3):
        server.write_at_once(lambda _, number=number: [add(number)])
    assert len(sent) == 2


@pytest.mark.parametrize("bad", [add(1), add(2, "\ud800"), add(1 << 40), add(3, "a\0b")])
def test_of_one_with_a_bad_value_nothing_is_written_and_the_next_one_is_none_the_worse(
    server: Ledger, bad: BoundStatement
) -> None:
    server.write_at_once(lambda _: [add(1)])
    with pytest.raises(LedgerDataError):
        server.write_at_once(lambda _: [add(8), bad, add(9)])
    assert server.write_at_once(lambda _: [add(5)]) == [[("one",)]]
    assert numbers(server) == [1, 5]


@pytest.mark.parametrize("ended", ["DEALLOCATE ALL", "SELECT pg_terminate_backend(pg_backend_pid())"])
def test_a_kept_session_that_forgets_or_ends_is_overcome(server: Ledger, ended: str) -> None:
    server.write_at_once(lambda _: [add(1)])
    (kept,) = server._kept._idle
    driver: Any = kept.connection.dbapi_connection
    driver.pgconn.exec_(ended.encode())

    assert server.write_at_once(lambda _: [add(2)]) == [[("one",)]]
    assert numbers(server) == [1, 2]


def test_one_that_is_interrupted_leaves_no_answer_for_the_next(server: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        """As a signal's handler raises it."""

    server.write_at_once(lambda _: [add(1)])
    wait = BoundedConnection.wait

    def stop(self: BoundedConnection, waited: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(BoundedConnection, "wait", wait)
        next(waited)
        raise Stopped

    monkeypatch.setattr(BoundedConnection, "wait", stop)
    with pytest.raises(Stopped):
        server.write_at_once(lambda _: [add(2)])
    assert server.write_at_once(lambda _: [add(3, "three")]) == [[("three",)]]


def test_it_is_asked_for_again_when_the_reply_to_it_is_lost(postgres: PostgresProcess) -> None:
    # Given a kept connection that breaks once the server has committed
    path, tries = postgres.create_database(), []
    with (
        Gate(postgres.port) as gate,
        closing(Ledger(f"postgresql+psycopg://postgres@127.0.0.1:{gate.port}/{path}")) as it,
    ):
        it.alter(words.create)
        it.write_at_once(lambda _: [add(1)])
        cut = gate.catch(END_OF_REQUEST, "cut")
        # When what is asked for the second time is something else
        it.write_at_once(lambda _: tries.append(None) or [add(1 + len(tries))])
        cut.wait(0)
        # Then both are there: who asks knows that the first may be
        assert (len(tries), numbers(it)) == (2, [1, 2, 3])


def test_one_that_is_in_use_when_its_ledger_is_closed_is_closed_after_that(postgres_url: str) -> None:
    ledger = Ledger(postgres_url)
    with ledger._kept.one(ledger._engine(write=True).connect) as connection:
        driver: Any = connection.connection.dbapi_connection
        ledger.close()
    assert driver.closed


def test_behind_a_pooler_it_begins_as_all_do(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "backend_pid", lambda _: 1)
    limit = BuiltStatement(
        lambda _: sa.select(
            sa.func.current_setting(sa.literal("statement_timeout", sa.Text()), type_=sa.Text()).label("limit")
        )
    )
    with closing(Ledger(postgres_url)) as ledger:
        for _ in range(2):
            assert ledger.write_at_once(lambda _: [limit.with_values()]) == [[("10s",)]]
