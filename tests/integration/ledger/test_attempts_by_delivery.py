"""Which attempts are of a delivery, for which there is no index that begins with the delivery."""

from __future__ import annotations

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Connection, Ledger, retention
from receiver.ledger.deliveries import resend
from receiver.ledger.filters import Filter
from receiver.ledger.lists.deliveries import list_attempts, list_deliveries
from receiver.ledger.schema import attempts as rows
from receiver.ledger.schema import deliveries, events
from tests.support import queries
from tests.support.backlog import analyze, effort
from tests.support.ledger import NOW, claim, new_event, record, settle
from tests.support.listed import fill

MANY = 500


def test_a_receipt_is_read_as_the_sink_gave_it(ledger: Ledger) -> None:
    # Given receipts of two sinks, one of them with half a character and a number that few encoders write
    given = {"ops": {"id": "é", "note": "\0"}, "other": {"id": "\ud800", "keys": [2**70]}}
    record(ledger, new_event("tsk_1", *given))
    # When they are settled
    for sink, receipt in given.items():
        settle(ledger, claim(ledger, sink), DeliveryMove.ACCEPT, receipt=receipt)
    # Then they are read as they were
    told = ledger.read(queries.list_attempts)
    assert sorted((row["receipt"] for row in told), key=str) == sorted(given.values(), key=str)


def test_an_attempt_is_recorded_with_when_its_delivery_was_made(ledger: Ledger) -> None:
    record(ledger, new_event("tsk_1", "ops"), now=NOW - 7.125)
    settle(ledger, claim(ledger, "ops"), DeliveryMove.ACCEPT, receipt={"id": "r"})

    told = ledger.read(lambda it: it.execute(sa.select(rows.c.delivery_created_at)).scalars().all())
    assert told == ledger.read(lambda it: it.execute(sa.select(deliveries.c.created_at)).scalars().all())


def test_attempts_are_found_without_those_of_others(ledger: Ledger) -> None:
    fill(ledger, 15_000, hashed=True)  # of few, PostgreSQL rather reads all
    analyze(ledger)
    ids = ledger.read(lambda it: it.execute(sa.select(deliveries.c.id).order_by(deliveries.c.id).limit(20)).scalars())
    some = list(ids)
    cases = {
        "statuses": lambda it: resend.statuses(it, some),
        "a page of deliveries": lambda it: list_deliveries(it, Filter(state=("dead",)), None, 20),
        "a page of attempts": lambda it: list_attempts(it, Filter(state=("dead",)), None, 20),
        "retention": lambda it: retention.remove(it, NOW + 20.5 * 0.001),
    }
    read = {name: effort(ledger, work) for name, work in cases.items()}  # type: ignore[arg-type]
    assert {name: each for name, each in read.items() if each > 3000} == {}


def test_attempts_go_with_their_deliveries(ledger: Ledger) -> None:
    fill(ledger, MANY, hashed=True)

    def count(connection: Connection) -> list[int]:
        return [
            connection.execute(sa.select(sa.func.count()).select_from(each)).scalar_one() for each in (events, rows)
        ]

    # When all that has ended of the oldest events is removed
    removed = ledger.write(lambda it: retention.remove(it, NOW + MANY)).events
    # Then their attempts are gone too, two of each, and no others
    assert removed > 0.9 * MANY
    assert ledger.read(count) == [MANY - removed, 2 * (MANY - removed)]
