"""Which attempts are of a delivery, for which there is no index that begins with the delivery; old ones among them."""

from __future__ import annotations

import sqlalchemy as sa

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Connection, Ledger, indexes, retention
from receiver.ledger.attempts_by_delivery import UNKNOWN
from receiver.ledger.deliveries import attempts, resend
from receiver.ledger.deliveries.attempts import AttemptResult
from receiver.ledger.filters import Filter
from receiver.ledger.lists.deliveries import list_attempts, list_deliveries
from receiver.ledger.schema import attempts as rows
from receiver.ledger.schema import deliveries, events
from tests.support import queries
from tests.support.backlog import analyze, effort
from tests.support.ledger import NOW, claim, new_event, record, settle
from tests.support.listed import fill
from tests.support.old_ledger import upgraded

MANY = 500
_DELIVERY = (
    "INSERT INTO deliveries (id, event_id, sink, lane, route, source, run_id, state, attempts, due_at, created_at,"
    " updated_at) VALUES ('dlv_{n}', 'evt_1', 'ops{n}', 'ops', 'r', 's', 'tsk_1', 'delivered', 1, 1, 17.25, 1)"
)
_ATTEMPT = (
    "INSERT INTO attempts (delivery_id, number, outcome, reason, started_at, ended_at, worker)"
    " VALUES ('dlv_{n}', 1, 'accepted', '', 1, 2.5, 'w')"
)


def test_0020_keeps_attempts_and_finds_them_with_later_ones(ledger_url: str) -> None:
    # Given attempts of an earlier release
    made = [statement.format(n=n) for n in (1, 2) for statement in (_DELIVERY, _ATTEMPT)]
    ledger = upgraded(ledger_url, "0019", *made)
    # When one of the deliveries is tried again
    again = AttemptResult("dlv_1", "evt_1", 17.25, 2, DeliveryMove.ACCEPT, "refused", "no", NOW, NOW)
    ledger.write(lambda it: attempts.record(it, [("w", again)]))
    # And once more by whoever did not hear that this was recorded
    ledger.write(lambda it: attempts.record(it, [("w", again)]))
    # Then it has both attempts, each once, and the other has its own
    told = [(row["delivery_id"], row["number"], row["outcome"]) for row in ledger.read(queries.list_attempts)]
    assert sorted(told) == [("dlv_1", 1, "accepted"), ("dlv_1", 2, "refused"), ("dlv_2", 1, "accepted")]
    newest = ledger.read(lambda it: resend.statuses(it, ["dlv_1", "dlv_2"]))
    assert {name: (each.number, each.outcome) for name, each in newest.items()} == {
        "dlv_1": (2, "refused"),
        "dlv_2": (1, "accepted"),
    }
    # And nothing is left of the index that began with the delivery
    found = ledger.read(indexes._found)
    assert "uq_attempts_delivery" in found
    assert not {"pk_attempts", "sqlite_autoindex_attempts_1"} & found.keys()
    ledger.close()


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
    assert told != [UNKNOWN]


def filled(ledger: Ledger, count: int) -> None:
    """Fill a ledger with attempts of `count` runs, every other one of them from before revision 0020."""
    fill(ledger, count, hashed=True)
    old = sa.update(rows).values(delivery_created_at=UNKNOWN).where(rows.c.delivery_id.like("%0"))
    ledger.alter(lambda it: it.execute(old))
    analyze(ledger)


def test_attempts_are_found_without_those_of_others(ledger: Ledger) -> None:
    filled(ledger, 15_000)  # of few, PostgreSQL rather reads all
    ids = ledger.read(lambda it: it.execute(sa.select(deliveries.c.id).order_by(deliveries.c.id).limit(20)).scalars())
    some = list(ids)
    cases = {
        "statuses": lambda it: resend.statuses(it, some),
        "a page of deliveries": lambda it: list_deliveries(it, Filter(state=("dead",)), None, 20),
        "a page of attempts": lambda it: list_attempts(it, Filter(state=("dead",)), None, 20),
        "retention": lambda it: retention.remove(it, NOW + 20.5 * 0.001),
    }
    read = {name: effort(ledger, work) for name, work in cases.items()}  # type: ignore[arg-type]
    assert {name: each for name, each in read.items() if each > 2000} == {}


def test_attempts_go_with_their_deliveries_whenever_they_were_recorded(ledger: Ledger) -> None:
    filled(ledger, MANY)

    def count(connection: Connection) -> list[int]:
        return [
            connection.execute(sa.select(sa.func.count()).select_from(each)).scalar_one() for each in (events, rows)
        ]

    # When all that has ended of the oldest events is removed
    removed = ledger.write(lambda it: retention.remove(it, NOW + MANY)).events
    # Then their attempts are gone too, two of each, and no others
    assert removed > 0.9 * MANY
    assert ledger.read(count) == [MANY - removed, 2 * (MANY - removed)]
