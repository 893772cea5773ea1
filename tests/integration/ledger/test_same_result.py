"""A result reaches a sink once, whatever is done at one moment: move to another sink, or reroute."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from receiver.domain.delivery import DeliveryMove
from receiver.ledger import Connection, Ledger, operations, reroutes
from receiver.ledger.deliveries.creation import AddedDelivery
from receiver.ledger.operations import Operation, StepBounds
from receiver.ledger.selection import Selection
from tests.support.ledger import NOW, beside, claim, new_event, record, record_in, settle, states, step_operations

LATER = NOW + 60
FIRST = new_event("tsk_1", "old")
UPDATE = new_event("tsk_1", "old", disposition="update", recording_url="https://x.example/r")._replace(
    disposition="update", repeat_of=FIRST.event.id
)

Step = Callable[[Connection], object]


def move(connection: Connection, kind: str = "move", old: str = "old", new: str = "new") -> int:
    moved = operations.create(connection, f"op_{kind}", Operation(kind, Selection(sink=old), new), LATER)
    while moved.state == "running":
        moved = operations.take_step(connection, moved, LATER)
    return moved.done


def reroute(connection: Connection) -> int:
    """As a plan from before a move would have it: the newest event of the result."""
    added = AddedDelivery(UPDATE.event.id, "skyvern", "tsk_1", "new", "today")
    return len(reroutes.add(connection, [added], LATER).made)


def give_all(connection: Connection) -> int:
    """The same, regardless of the routes: by the first event of the result."""
    added = AddedDelivery(FIRST.event.id, "skyvern", "tsk_1", "new", "backfill")
    return len(reroutes.add(connection, [added], LATER, to_newest=True).made)


@pytest.fixture
def told(ledger: Ledger) -> Ledger:
    """A result that two events tell; the first of them waits for the sink `old`, the other is not sent."""
    record(ledger, FIRST)
    record(ledger, UPDATE._replace(deliveries=()))
    return ledger


def of_new(ledger: Ledger) -> int:
    return len(ledger.read(lambda it: it.exec_driver_sql("SELECT id FROM deliveries WHERE sink = 'new'").all()))


@pytest.mark.parametrize("adding", [reroute, give_all])
def test_additions_after_a_move_make_one_delivery(told: Ledger, adding: Step) -> None:
    assert told.write(move) == 1
    assert told.write(adding) == 0
    assert of_new(told) == 1


@pytest.mark.parametrize("adding", [reroute, give_all])
def test_move_after_additions_makes_one_delivery(told: Ledger, adding: Step) -> None:
    assert told.write(adding) == 1
    assert told.write(move) == 0
    assert of_new(told) == 1
    assert states(told, sink="old") == {"tsk_1:old": "queued"}


@pytest.mark.parametrize("ledger", ["postgresql"], indirect=True)
@pytest.mark.parametrize("adding", [reroute, give_all])
@pytest.mark.parametrize("move_first", [True, False])
def test_at_one_moment_they_make_one(told: Ledger, adding: Step, move_first: bool) -> None:
    first, second = (move, adding) if move_first else (adding, move)
    with beside(told, first, second) as counts:
        assert counts == (1, 0)
    assert of_new(told) == 1


@pytest.mark.parametrize("ledger", ["postgresql"], indirect=True)
def test_sink_gets_the_update_that_is_recorded_meanwhile(ledger: Ledger) -> None:
    record(ledger, FIRST)

    def update(connection: Connection) -> None:
        record_in(connection, [UPDATE._replace(deliveries=())], LATER)

    with beside(ledger, update, give_all) as (_, made):
        assert made == 1
    assert [each.event_id for each in claim(ledger, "new", now=LATER)] == [UPDATE.event.id]


def test_an_update_follows_its_result_to_the_other_sink(told: Ledger) -> None:
    # Given that the update is for that sink too, and a move that takes them one by one
    record(told, new_event("tsk_2", "old"))
    told.write(lambda it: it.exec_driver_sql("UPDATE events SET repeat_of = id"))
    record(told, UPDATE._replace(event=new_event("tsk_1", note="again").event))
    told.write(lambda it: operations.create(it, "op_1", Operation("move", Selection(sink="old"), "new"), LATER))
    # When it is moved
    while told.read(operations.count_running):
        step_operations(told, LATER, StepBounds(1))
    # Then all of it is
    assert of_new(told) == 3
    # And all of it is given back, but for what was delivered
    settle(told, claim(told, "new", limit=1, now=LATER + 1), DeliveryMove.ACCEPT, receipt={"id": "r"})
    assert told.write(lambda it: move(it, "move_back", "new", "old")) == 2
    assert of_new(told) == 1
