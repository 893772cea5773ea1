"""Several statements in one request: what they do, what fails, and what is left of it, on both databases."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from handlers.support import postgresql
from handlers.support.postgresql import BoundedConnection
from receiver.domain.delivery import DeliveryMove
from receiver.ledger import (
    Connection,
    Ledger,
    LedgerDataError,
    LedgerUnavailable,
    bulk,
    database_clock,
    engine,
    statements,
)
from receiver.ledger.deliveries import claims
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.statements import BoundStatement, BuiltStatement
from tests.servers.postgres import PostgresProcess
from tests.support.ledger import NOW, new_event, record, settle_in, states

words = sa.Table(
    "words_of_a_test", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("word", sa.Text)
)
put = bulk.Insert(words, lambda statement: statement)
found = BuiltStatement(
    lambda form: sa.select(words).where(bulk.among_given(form, words.c.id, "ids")).order_by(words.c.id)
)
changed = BuiltStatement(
    lambda _: (
        sa.update(words).where(words.c.id == sa.bindparam("its_id", type_=sa.Integer)).values(word=sa.bindparam("new"))
    )
)


@pytest.fixture
def store(ledger_url: str) -> Iterator[Ledger]:
    """A ledger that has the table of this test, and nothing else."""
    it = Ledger(ledger_url)
    it.alter(words.create)
    yield it
    it.close()


@pytest.fixture
def server(postgres_url: str) -> Iterator[Ledger]:
    it = Ledger(postgres_url)
    it.alter(words.create)
    yield it
    it.close()


def row(number: int, word: str | None = "one") -> dict[str, Any]:
    return {"id": number, "word": word}


def all_of(ledger: Ledger) -> list[tuple[Any, ...]]:
    query = sa.select(words.c.id, words.c.word).order_by(words.c.id)
    return [tuple(each) for each in ledger.read(lambda connection: connection.execute(query).all())]


def test_each_statement_sees_what_those_before_it_did(store: Ledger) -> None:
    def work(connection: Connection) -> list[Any]:
        made = put.of(connection, [row(1), row(2, None)])
        return statements.run(
            *(connection, made, changed.with_values(its_id=1, new="two"), found.with_values(ids=[1, 2, 3]))
        )

    made, updated, rows = store.write(work)
    assert (list(made), list(updated)) == ([], [])
    assert [(each.id, each.word) for each in rows] == [(1, "two"), (2, None)]
    assert all_of(store) == [(1, "two"), (2, None)]


@pytest.mark.parametrize("ids", [[], [1], [1, 3]])
def test_a_statement_finds_the_same_however_many_values_it_is_given(store: Ledger, ids: list[int]) -> None:
    store.write(lambda it: statements.run(it, put.of(it, [row(1, None)]), put.of(it, [row(2), row(3)])))

    found_now = store.write(lambda it: statements.run(it, found.with_values(ids=ids))[0])
    assert [each.id for each in found_now] == ids


def test_a_claim_is_two_requests_and_a_settlement_is_one(
    postgres_ledger: Ledger, sent: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given something due, and what was done before on this connection
    monkeypatch.setattr(database_clock, "FRESH_FOR", float("inf"))
    record(postgres_ledger, new_event("tsk_1", "ops"))
    sent.clear()

    # When it is claimed, and settled
    claimed = postgres_ledger.write(
        lambda it: claims.claim(it, "ops", 8, "w", 1, NOW, 15, concurrency=8, prefetch=8, budget=5)
    )
    requests_of_claim = len(sent)
    accepted = AttemptResult(
        claimed[0].id, claimed[0].event_id, NOW, 1, DeliveryMove.ACCEPT, "accepted", "", NOW, NOW, receipt={}
    )
    postgres_ledger.write(lambda it: settle_in(it, "w", {1: [accepted]}, NOW, commit=True))

    # Then each took as few requests as it can, and is committed
    assert (requests_of_claim, len(sent) - requests_of_claim) == (2, 1)
    assert states(postgres_ledger) == {"tsk_1:ops": "delivered"}


def test_statements_and_their_commit_are_one_request(server: Ledger, sent: list[None]) -> None:
    def work(connection: Connection) -> int:
        statements.run(connection, put.of(connection, [row(1)]), found.with_values(ids=[1]), commit=True)
        return len(sent)

    server.read(lambda _: None)  # connected, and asked for its time
    sent.clear()
    # When they are prepared, and when they are run again
    assert server.write(work) == 1
    assert server.write(lambda it: statements.run(it, found.with_values(ids=[1]), commit=True)) == [[(1, "one")]]
    # Then no COMMIT follows
    assert len(sent) == 2
    assert all_of(server) == [(1, "one")]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (row(1), LedgerDataError),  # it is there
        (row(2, "\ud800"), LedgerDataError),
        (row(1 << 40), LedgerDataError),
        (row(3, "a\0b"), LedgerDataError),
    ],
)
def test_of_a_request_with_a_bad_value_nothing_is_written(
    server: Ledger, bad: dict[str, Any], error: type[Exception]
) -> None:
    server.write(lambda connection: put(connection, [row(1)]))

    def work(connection: Connection) -> None:
        before, after = put.of(connection, [row(8)]), put.of(connection, [row(9)])
        statements.run(connection, before, put.of(connection, [bad]), after, commit=True)

    with pytest.raises(error) as caught:
        server.write(work)
    assert "words" not in str(caught.value)
    assert all_of(server) == [(1, "one")]
    server.write(lambda connection: put(connection, [row(5)]))
    assert len(all_of(server)) == 2, "the connection is as good as new"


@pytest.mark.parametrize("bad", [row(1), row(2, "\ud800")])
def test_of_statements_with_a_bad_value_sqlite_keeps_nothing(tmp_path: Path, bad: dict[str, Any]) -> None:
    with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as store:
        store.alter(words.create)
        store.write(lambda connection: put(connection, [row(1)]))

        with pytest.raises(LedgerDataError) as caught:
            store.write(lambda it: statements.run(it, put.of(it, [row(8)]), put.of(it, [bad]), put.of(it, [row(9)])))
        assert "words" not in str(caught.value)
        assert all_of(store) == [(1, "one")]
        store.write(lambda connection: put(connection, [row(5)]))
        assert len(all_of(store)) == 2, "the connection is as good as new"


def test_a_list_has_the_texts_that_a_column_may_have(store: Ledger) -> None:
    # Given words with what means something in JSON, and letters that are not ASCII
    texts = ["", '"', "\\", "\\u0041", "[1, 2]", "a\nb", "é", "\U0001f600"]
    store.write(lambda it: put(it, [row(number, text) for number, text in enumerate(texts)]))
    by_word = BuiltStatement(lambda form: sa.select(words.c.word).where(bulk.among_given(form, words.c.word, "w")))
    # When they are looked for
    rows = store.read(lambda it: statements.run(it, by_word.with_values(w=texts))[0])
    # Then each is found; and one that no text can have is refused
    assert {each.word for each in rows} == set(texts)
    with pytest.raises(LedgerDataError):
        store.write(lambda it: statements.run(it, by_word.with_values(w=["\ud800", "a"])))


def test_a_condition_is_true_false_or_null_on_both_databases(store: Ledger) -> None:
    store.write(lambda it: put(it, [row(1), row(2, "two"), row(3, None)]))
    compared = BuiltStatement(lambda _: sa.select(words.c.id, (words.c.word == "one").label("is_one")))
    rows = store.read(lambda it: statements.run(it, compared.with_values())[0])
    by_id = {each.id: each.is_one for each in rows}
    assert by_id[1] is True
    assert by_id[2] is False
    assert by_id[3] is None


def test_each_of_many_rows_returns_what_was_written(store: Ledger) -> None:
    store.write(lambda it: put(it, [row(2)]))
    added = bulk.Insert(words, lambda it: it.on_conflict_do_nothing(), returning=[words.c.id, words.c.word])
    rows = store.write(lambda it: added(it, [row(number, f"word {number}") for number in (1, 2, 3)]))
    assert sorted((each.id, each.word) for each in rows) == [(1, "word 1"), (3, "word 3")]


def test_of_a_request_that_fails_at_its_end_nothing_is_written(server: Ledger) -> None:
    # Given a table whose values are compared when the transaction ends
    server.alter(
        lambda it: it.exec_driver_sql(
            "ALTER TABLE words_of_a_test ADD CONSTRAINT once UNIQUE (word) DEFERRABLE INITIALLY DEFERRED"
        )
    )
    # When a request is refused after the last of its statements
    with pytest.raises(LedgerDataError):
        server.write_at_once(lambda it: [put.of(it, [row(1), row(2)])])
    # Then it is not taken for committed, and the connection is as good as new
    assert all_of(server) == []
    server.write(lambda it: statements.run(it, put.of(it, [row(5)]), commit=True))
    assert all_of(server) == [(5, "one")]


def test_a_request_whose_end_is_not_heard_is_not_taken_for_committed(postgres: PostgresProcess) -> None:
    with ends_unheard(postgres.port) as (port, lost):
        connection = BoundedConnection.connect(
            f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable", autocommit=True
        )
        asked = [postgresql.Execution(postgresql.Statement("SELECT 1"))]
        assert connection.together(asked, commit=True) == [[(1,)]]
        # When the answers to all statements come, and then the connection breaks
        lost.set()
        with pytest.raises(psycopg.OperationalError, match=r"lost|closed"):
            connection.together(asked, commit=True)


@contextmanager
def ends_unheard(target: int) -> Iterator[tuple[int, threading.Event]]:
    """A way to a PostgreSQL for one connection, and what makes it break where a request's end would be told."""
    lost = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    server = socket.create_connection(("127.0.0.1", target))

    def pass_on(client: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)

    def answer() -> None:
        client, _ = listener.accept()
        threading.Thread(target=pass_on, args=(client,), daemon=True).start()
        with client, server.makefile("rb") as stream:
            while head := stream.read(5):
                message = head + stream.read(int.from_bytes(head[1:]) - 4)
                if lost.is_set() and head[:1] == b"Z":
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(message)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with listener, server:
        yield listener.getsockname()[1], lost
    thread.join(60)


def test_a_statement_that_the_server_does_not_know_is_trouble_with_the_ledger(server: Ledger) -> None:
    missing = BuiltStatement(lambda _: sa.select(sa.column("id", sa.Integer)).select_from(sa.table("no_such_table")))
    with pytest.raises(LedgerUnavailable, match="no_such_table"):
        server.write(lambda connection: statements.run(connection, missing.with_values()))


@pytest.mark.parametrize("ended", ["DEALLOCATE ALL", "SELECT pg_terminate_backend(pg_backend_pid())"])
def test_what_a_session_forgets_and_a_session_that_ends_are_overcome(server: Ledger, ended: str) -> None:
    # Given a session that has prepared a statement
    asked = found.with_values(ids=[1])
    server.write(lambda connection: statements.run(connection, asked))
    # When it has forgotten that, or is gone, before the next transaction
    connection = server._engine(write=True).raw_connection()
    driver: Any = connection.dbapi_connection
    try:
        driver.pgconn.exec_(ended.encode())
    finally:
        connection.close()
    # Then that is done all the same
    server.write(lambda connection: statements.run(connection, put.of(connection, [row(1)]), asked, commit=True))
    assert all_of(server) == [(1, "one")]


def alter_as_an_operator(server: Ledger, length: int = 9) -> None:
    it = server.url
    assert it.host
    with psycopg.connect(host=it.host, port=it.port, user=it.username, dbname=it.database, autocommit=True) as other:
        other.execute(f"ALTER TABLE words_of_a_test ALTER COLUMN word TYPE varchar({length})".encode())


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_prepared_for_a_table_that_is_altered_since_is_prepared_again(server: Ledger, kept: bool) -> None:
    # Given the only session of a ledger, which has prepared two statements
    held = sa.select(sa.func.count()).select_from(sa.text("pg_prepared_statements WHERE statement LIKE 'SELECT%'"))
    asked, counting = found.with_values(ids=[1]), BuiltStatement(lambda _: held).with_values()

    def ask() -> list[Any]:
        if kept:
            return server.write_at_once(lambda _: [asked, counting])
        return server.write(lambda it: statements.run(it, asked, counting, commit=True))

    server.write(lambda it: statements.run(it, put.of(it, [row(1)])))
    ask()
    for length in (9, 10, 11):
        # When its table is altered
        alter_as_an_operator(server, length)
        # Then it does so again, and leaves none behind
        for _ in range(2):
            assert ask() == [[(1, "one")], [(2,)]]


def test_a_table_that_is_altered_again_and_again_is_never_a_values_fault(
    server: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the events of a batch would be marked as unreadable."""
    asked = found.with_values(ids=[1])
    server.write(lambda it: statements.run(it, put.of(it, [row(1)]), asked, commit=True))
    alter_as_an_operator(server)
    monkeypatch.setattr(engine, "_TRIES", 1)
    with pytest.raises(LedgerUnavailable, match="cached plan"):
        server.write(lambda it: statements.run(it, asked, commit=True))


def test_what_is_rolled_back_is_prepared_again(server: Ledger) -> None:
    asked = found.with_values(ids=[1])
    for _ in range(2):
        server.write(lambda connection: statements.run(connection, asked))
        server.read(lambda connection: connection.exec_driver_sql("SELECT 1").all())  # which ends with a ROLLBACK

    def prepared(connection: Connection) -> int:
        return int(connection.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one())

    assert server.read(prepared) == 0, "none is left behind"


def test_behind_a_pooler_nothing_is_prepared(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a pooler, whose sessions have a process other than it tells
    monkeypatch.setattr(postgresql, "backend_pid", lambda _: 1)
    ledger = Ledger(postgres_url)
    ledger.alter(words.create)
    count = "SELECT count(*) FROM pg_prepared_statements"

    def work(connection: Connection) -> list[Any]:
        statements.run(connection, put.of(connection, [row(1)]), found.with_values(ids=[1]))
        return [connection.exec_driver_sql(count).scalar(), *statements.run(connection, changed_of(1), commit=True)]

    assert ledger.write(work) == [0, []]
    assert all_of(ledger) == [(1, "two")]
    ledger.close()


@pytest.mark.parametrize("transaction", [True, False])
def test_behind_a_pooler_a_read_has_its_limits(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, transaction: bool
) -> None:
    monkeypatch.setattr(postgresql, "backend_pid", lambda _: 1)
    limit = BuiltStatement(
        lambda _: sa.select(
            sa.func.current_setting(sa.literal("statement_timeout", sa.Text()), type_=sa.Text()).label("limit")
        )
    )
    asked = limit.with_values()
    with closing(Ledger(postgres_url)) as ledger:
        assert ledger.read(lambda it: statements.run(it, asked), transaction=transaction) == [[("10s",)]]


def changed_of(number: int) -> BoundStatement:
    return changed.with_values(its_id=number, new="two")


def test_of_two_that_deadlock_one_is_tried_again(server: Ledger) -> None:
    server.write(lambda connection: put(connection, [row(1), row(2)]))
    both = threading.Barrier(2)
    tries: list[int] = []

    def work(connection: Connection, first: int, second: int) -> None:
        tries.append(first)
        statements.run(connection, changed_of(first))
        if len(tries) <= 2:
            both.wait(30)
        statements.run(connection, changed_of(second), commit=True)

    threads = [
        threading.Thread(target=server.write, args=(lambda it, a=a, b=b: work(it, a, b),)) for a, b in ((1, 2), (2, 1))
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert len(tries) == 3
    assert all_of(server) == [(1, "two"), (2, "two")]


def test_a_connection_that_is_interrupted_in_a_request_is_used_no_more(
    server: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        """As a signal's handler raises it."""

    asked = found.with_values(ids=[1])
    server.write(lambda connection: put(connection, [row(1)]))
    wait = BoundedConnection.wait

    def stop(self: BoundedConnection, waited: Any, *args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(BoundedConnection, "wait", wait)
        next(waited)
        raise Stopped

    monkeypatch.setattr(BoundedConnection, "wait", stop)
    with pytest.raises(Stopped):
        server.write(lambda connection: statements.run(connection, changed_of(1), asked))
    assert server.write(lambda connection: statements.run(connection, asked)) == [[(1, "one")]]


def test_a_driver_alone_begins_a_transaction_and_reads_any_type(postgres_url: str) -> None:
    now = postgresql.Statement("SELECT now(), 1.5::numeric, '{\"a\": 1}'::jsonb, ARRAY['x', NULL], NULL::text")
    with BoundedConnection.connect(postgres_url.replace("+psycopg", "")) as connection:
        ((first,), (second,)) = connection.together([postgresql.Execution(now), postgresql.Execution(now)])
        assert first == second, "one transaction"
        assert [str(first[1]), *first[2:]] == ["1.5", {"a": 1}, ["x", None], None]
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
