"""How the databases plan what is run for each event that comes alone: they find its rows by an index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Connection, Ledger
from receiver.ledger.deliveries import attempts, claims, lanes
from receiver.ledger.deliveries.claimed import load_bodies
from receiver.ledger.recording import binding
from receiver.ledger.schema import metadata
from tests.support.dispatching import dispatch
from tests.support.events import body, event
from tests.support.ledger import NOW, new_event, record, result_of, with_tables
from tests.support.queries import asked_of, plans_of, plans_of_work
from tests.support.runners import make_recorder


def take_through(ledger: Ledger, number: int) -> None:
    """Take one event from its record to the settlement of its delivery."""
    run_id = f"tsk_{number}"
    record(ledger, new_event(run_id, "ops"))
    reported = [binding.Reported("skyvern", run_id)]
    ledger.write(lambda it: (binding.bind(it, reported, NOW, {}), lanes.shut_among(it, ["ops"])))
    taken = ledger.write(lambda it: claims.claim(it, "ops", 8, "w", NOW))
    (loaded,) = ledger.write(lambda it: load_bodies(it, taken))
    assert ledger.write(lambda it: claims.renew(it, "w", [loaded], NOW + 30)) == [loaded]
    accepted = result_of(loaded, DeliveryMove.ACCEPT, receipt={})
    ledger.write(lambda it: attempts.settle(it, "w", [accepted], NOW))


@pytest.fixture
def postgresql(postgres_url: str) -> Iterator[Ledger]:
    """A ledger of whose tables PostgreSQL has no statistics."""
    with closing(with_tables(Ledger(postgres_url))) as it:
        yield it


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Ledger]:
    with closing(with_tables(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}"))) as it:
        yield it


def take_all_through(ledger: Ledger, redis_url: str) -> dict[str, list[str]]:
    """Take events through, one by one: new ones, one with a token, one more of a run, and a repeat. Returns plans."""
    recorder, first = make_recorder(ledger, redis_url), event(body("tsk_a"))
    with asked_of(ledger) as asked:
        events = [first, event(body("tsk_b"), submission_id="s"), event(body("tsk_a", n=2)), first]
        for number, each in enumerate(events):
            dispatch(recorder, [each])
            take_through(ledger, number)
    return plans_of(ledger, asked)


def test_lone_event_reads_no_whole_table_of_postgresql(postgresql: Ledger, redis_url: str) -> None:
    plans = take_all_through(postgresql, redis_url)

    assert len(plans) >= 15
    whole = {statement for statement, plan in plans.items() if "Seq Scan" in str(plan)}
    assert [statement for statement in whole if "FROM submissions" not in statement] == [], "that table is empty"
    # And deliveries are found by their key, and those that wait for an event by the index of all that waits
    by_id = [str(plan) for statement, plan in plans.items() if "deliveries.id = ANY" in statement]
    assert len(by_id) >= 3
    assert [plan for plan in by_id if "pk_deliveries" not in plan] == []
    by_event = {each: str(plan) for each, plan in plans.items() if "deliveries.event_id = ANY" in each}
    assert len(by_event) >= 2
    for statement, plan in by_event.items():
        assert ("ix_deliveries_held" if "= 'held'" in statement else "ix_deliveries_event_id") in plan


def test_lone_event_reads_no_whole_table_of_sqlite(sqlite: Ledger, redis_url: str) -> None:
    plans = take_all_through(sqlite, redis_url)

    assert len(plans) >= 15
    whole = re.compile(rf"SCAN ({'|'.join(metadata.tables)})\b")
    assert {statement: plan for statement, plan in plans.items() if any(map(whole.match, plan))} == {}


def test_settling_many_does_not_compare_all_pairs(postgresql: Ledger) -> None:
    record(postgresql, *(new_event(f"tsk_{number}", "ops") for number in range(3000)))
    old = postgresql.write(lambda it: claims.claim(it, "ops", 2700, "w", NOW))
    accepted = [result_of(each, DeliveryMove.ACCEPT, receipt={}) for each in old]
    postgresql.write(lambda it: attempts.settle(it, "w", accepted, NOW))
    postgresql.write(lambda it: it.exec_driver_sql("ANALYZE deliveries"))  # few are claimed
    claimed = postgresql.write(lambda it: claims.claim(it, "ops", 256, "w", NOW))

    def settle(connection: Connection) -> None:
        claims.renew(connection, "w", claimed, NOW + 30)
        attempts.settle(connection, "w", [result_of(each, DeliveryMove.ACCEPT, receipt={}) for each in claimed], NOW)

    plans = plans_of_work(postgresql, settle)

    updates = {each: plan for each, plan in plans.items() if "UPDATE deliveries" in each}
    assert len(updates) == 2
    assert {each for each, plan in updates.items() if "Nested Loop" in str(plan)} == set()
